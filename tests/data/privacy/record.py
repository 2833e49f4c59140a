"""RDP accountant for the Poisson-subsampled Gaussian, integer orders 2..256 (Mironov-Talwar-Zhang 1908.10530 eq. for integer alpha), golden values."""
import math, json
def logadd(a,b):
    if a==-math.inf: return b
    m=max(a,b); return m+math.log(math.exp(a-m)+math.exp(b-m))
def rdp(q,s,al):
    if q==0: return 0.
    if q==1: return al/(2*s*s)
    t=-math.inf
    for k in range(al+1):
        t=logadd(t, math.lgamma(al+1)-math.lgamma(k+1)-math.lgamma(al-k+1)+k*math.log(q)+(al-k)*math.log1p(-q)+(k*k-k)/(2*s*s))
    return t/(al-1)
def eps(q,s,T,delta,mode):
    best=(math.inf,0)
    for al in range(2,257):
        r=T*rdp(q,s,al)
        e=r+math.log1p(-1/al)-(math.log(delta)+math.log(al))/(al-1) if mode=='ckS20' else r-math.log(delta)/(al-1)
        best=min(best,(e,al))
    return best
out={}
for q,s,T,d in [(256/60000,1.1,60*60000//256,1e-5),(.1,1.,15,1e-5),(.1,1.,100,1e-5),(1.,1.,10,1e-5),(1.,4.,20,1e-5),(.01,1.,1000,1e-6)]:
    a,b=eps(q,s,T,d,'ckS20'),eps(q,s,T,d,'mironov'); out[f'q={q:.6g} z={s} T={T} delta={d}']={'ckS20':a,'mironov17':b}; print(f'q={q:.6g} z={s} T={T} delta={d}: eps(CKS20)={a[0]:.6f} at {a[1]}, eps(Mironov17)={b[0]:.6f} at {b[1]}')
json.dump(out,open('rdp.json','w'),indent=1)
