//! Loops over rows, compiled for the widest vectors that the processor has.

/// Defines functions that are compiled three times: for AVX-512, for AVX2 and for the baseline of the target. The
/// widest that the processor has is taken at run time.
///
/// Sums and products are not contracted, so every processor gives the same bits.
macro_rules! vectorized {
    ($($(#[$doc:meta])* fn $name:ident($($arg:ident: $type:ty),* $(,)?) $body:block)*) => {$(
        $(#[$doc])*
        #[cfg_attr(target_arch = "x86_64", expect(
            unsafe_code,
            reason = "a function with target features may only run where the processor has them"
        ))]
        #[expect(clippy::allow_attributes, reason = "not every kernel has many arguments")]
        #[allow(clippy::too_many_arguments, reason = "kernels take slices and sizes")]
        pub(super) fn $name($($arg: $type),*) {
            #[inline(always)]
            #[allow(clippy::inline_always, reason = "else the loop is not compiled for the caller's features")]
            fn body($($arg: $type),*) $body

            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
                fn wide($($arg: $type),*) {
                    body($($arg),*);
                }
                #[target_feature(enable = "avx2")]
                fn narrow($($arg: $type),*) {
                    body($($arg),*);
                }
                match $crate::fused::simd::Width::of_processor() {
                    // SAFETY: the processor was asked for these features just now.
                    $crate::fused::simd::Width::Avx512 => return unsafe { wide($($arg),*) },
                    // SAFETY: likewise.
                    $crate::fused::simd::Width::Avx2 => return unsafe { narrow($($arg),*) },
                    $crate::fused::simd::Width::Baseline => {}
                }
            }
            body($($arg),*);
        }
    )*};
}

pub(super) use vectorized;

/// The widest vectors that the processor has.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
pub(super) enum Width {
    Avx512,
    Avx2,
    Baseline,
}

#[cfg(target_arch = "x86_64")]
impl Width {
    /// Cheap: the standard library asks once.
    pub(super) fn of_processor() -> Self {
        let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
        let avx512 = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl");
        match (avx512 && avx2, avx2) {
            (true, _) => Self::Avx512,
            (_, true) => Self::Avx2,
            _ => Self::Baseline,
        }
    }
}
