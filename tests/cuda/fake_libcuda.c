// A libcuda.so that pretends to be one H100 under a CUDA 13.0 driver and runs nothing: README.md says what it is for. It
// hands each PTX that it is given to a file in $MOCK_PTX_DIR, so that ptxas can check it.
#include <stdlib.h>
#include <string.h>
#include <stdio.h>
#include <stdint.h>
typedef int R; typedef uint64_t P;
#define OK 0
R cuInit(unsigned f){return OK;}
R cuDriverGetVersion(int*v){const char*e=getenv("MOCK_DRIVER");*v=e?atoi(e):13000;return OK;}
R cuDeviceGetCount(int*n){*n=1;return OK;}
R cuDeviceGet(int*d,int i){*d=i;return OK;}
R cuDeviceGetName(char*n,int l,int d){snprintf(n,l,"NVIDIA H100 80GB HBM3");return OK;}
R cuDeviceGetUuid(void*u,int d){memset(u,1,16);return OK;}
R cuDeviceGetUuid_v2(void*u,int d){memset(u,1,16);return OK;}
R cuDeviceTotalMem_v2(size_t*b,int d){*b=80ull<<30;return OK;}
R cuDeviceGetPCIBusId(char*s,int l,int d){snprintf(s,l,"0000:0A:00.0");return OK;}
R cuDeviceGetAttribute(int*v,int a,int d){switch(a){
 case 1:*v=1024;break;case 2:*v=1024;break;case 3:*v=1024;break;case 4:*v=64;break;
 case 5:*v=2147483647;break;case 6:*v=65535;break;case 7:*v=65535;break;case 8:*v=49152;break;
 case 10:*v=32;break;case 12:*v=65536;break;case 16:*v=132;break;case 39:*v=2048;break;
 case 75:*v=9;break;case 76:*v=0;break;case 81:*v=233472;break;case 97:*v=232448;break;
 case 38:*v=50<<20;break;case 115:*v=1;break;default:*v=0;}return OK;}
R cuDevicePrimaryCtxRetain(void**c,int d){*c=(void*)0x10;return OK;}
R cuDevicePrimaryCtxRelease_v2(int d){return OK;}
R cuCtxSetCurrent(void*c){return OK;} R cuCtxGetCurrent(void**c){*c=(void*)0x10;return OK;}
R cuCtxGetDevice(int*d){*d=0;return OK;} R cuCtxSynchronize(void){return OK;}
R cuCtxGetStreamPriorityRange(int*a,int*b){*a=0;*b=-5;return OK;}
R cuStreamCreate(void**s,unsigned f){*s=(void*)0x20;return OK;}
R cuStreamCreateWithPriority(void**s,unsigned f,int p){*s=(void*)0x20;return OK;}
R cuStreamSynchronize(void*s){return OK;} R cuStreamQuery(void*s){return OK;} R cuStreamDestroy_v2(void*s){return OK;}
R cuStreamWaitEvent(void*s,void*e,unsigned f){return OK;}
R cuStreamIsCapturing(void*s,int*c){*c=0;return OK;}
R cuStreamGetCaptureInfo_v2(void*s,int*c,P*id,void*g,void*d,size_t*n){*c=0;return OK;}
R cuEventCreate(void**e,unsigned f){*e=(void*)0x30;return OK;} R cuEventRecord(void*e,void*s){return OK;}
R cuEventSynchronize(void*e){return OK;} R cuEventQuery(void*e){return OK;} R cuEventDestroy_v2(void*e){return OK;}
R cuEventElapsedTime(float*ms,void*a,void*b){*ms=20.0f;return OK;} R cuEventElapsedTime_v2(float*ms,void*a,void*b){*ms=20.0f;return OK;}
R cuMemAlloc_v2(P*p,size_t n){*p=(P)calloc(1,n+512);return *p?OK:2;} R cuMemFree_v2(P p){free((void*)p);return OK;}
R cuMemAllocAsync(P*p,size_t n,void*s){return cuMemAlloc_v2(p,n);} R cuMemFreeAsync(P p,void*s){return cuMemFree_v2(p);}
R cuMemAllocHost_v2(void**p,size_t n){*p=calloc(1,n+64);return OK;} R cuMemFreeHost(void*p){free(p);return OK;}
R cuMemHostAlloc(void**p,size_t n,unsigned f){*p=calloc(1,n+64);return OK;}
R cuMemGetInfo_v2(size_t*f,size_t*t){*t=80ull<<30;*f=79ull<<30;return OK;}
R cuMemcpyHtoDAsync_v2(P d,const void*s,size_t n,void*st){memcpy((void*)d,s,n);return OK;}
R cuMemcpyDtoHAsync_v2(void*d,P s,size_t n,void*st){memcpy(d,(void*)s,n);return OK;}
R cuMemcpyDtoDAsync_v2(P d,P s,size_t n,void*st){memmove((void*)d,(void*)s,n);return OK;}
R cuMemsetD8Async(P d,unsigned char c,size_t n,void*st){memset((void*)d,c,n);return OK;}
typedef struct{size_t sx,sy;int st;const void*sh;P sd;void*sa;size_t sp;size_t dx,dy;int dt;void*dh;P dd;void*da;size_t dp;size_t w,h;}C2;
R cuMemcpy2DAsync_v2(const C2*c,void*s){const char*a=c->st==1?c->sh:(void*)c->sd;char*b=c->dt==1?c->dh:(void*)c->dd;
 for(size_t y=0;y<c->h;y++)memcpy(b+(c->dy+y)*c->dp+c->dx,a+(c->sy+y)*c->sp+c->sx,c->w);return OK;}
static int nmod=0,nlaunch=0;
R cuModuleLoadData(void**m,const void*img){int i=__sync_fetch_and_add(&nmod,1);const char*d=getenv("MOCK_PTX_DIR");
 if(d){char f[512];snprintf(f,512,"%s/%05d.ptx",d,i);FILE*o=fopen(f,"w");fputs(img,o);fclose(o);}*m=(void*)0x40;return OK;}
R cuModuleGetFunction(void**f,void*m,const char*n){*f=(void*)0x50;return OK;} R cuModuleUnload(void*m){return OK;}
R cuFuncSetAttribute(void*f,int a,int v){return OK;} R cuFuncGetAttribute(int*v,int a,void*f){*v=64;return OK;}
R cuOccupancyMaxActiveBlocksPerMultiprocessor(int*n,void*f,int b,size_t s){*n=2;return OK;}
R cuLaunchKernel(void*f,unsigned a,unsigned b,unsigned c,unsigned x,unsigned y,unsigned z,unsigned sh,void*s,void**p,void**e){nlaunch++;return OK;}
R cuLaunchKernelEx(const void*c,void*f,void**p,void**e){nlaunch++;return OK;}
R cuTensorMapEncodeTiled(void*t,...){memset(t,0,128);return OK;} R cuTensorMapEncodeIm2col(void*t,...){memset(t,0,128);return OK;}
R cuGetErrorString(R e,const char**s){*s="mock error";return OK;} R cuGetErrorName(R e,const char**s){*s="MOCK";return OK;}
R cuStreamBeginCapture_v2(void*s,int m){return 801;} R cuStreamEndCapture(void*s,void**g){return 801;}
R cuPointerGetAttribute(void*d,int a,P p){memset(d,0,8);return OK;}
R cuDeviceCanAccessPeer(int*c,int a,int b){*c=0;return OK;}
__attribute__((destructor)) static void fin(void){fprintf(stderr,"[mock libcuda] %d modules, %d launches\n",nmod,nlaunch);}
