//! Functions of the standard library in a form that adds little to the page's module.
//!
//! Elementary functions of f64 are the browser's there. Both kinds are within an ulp or two of the exact value, so that what
//! is made of them agrees after rounding to f32.

use std::collections::BinaryHeap;

#[cfg(all(feature = "web", target_arch = "wasm32"))]
pub(crate) use js_sys::Math::{acos, cos, log as ln, log1p as ln_1p, pow, sin};

#[cfg(not(all(feature = "web", target_arch = "wasm32")))]
macro_rules! std_functions {
    ($($name:ident),*) => {
        $(pub(crate) fn $name(x: f64) -> f64 {
            x.$name()
        })*
    };
}

#[cfg(not(all(feature = "web", target_arch = "wasm32")))]
std_functions!(acos, cos, ln, ln_1p, sin);

#[cfg(not(all(feature = "web", target_arch = "wasm32")))]
pub(crate) fn pow(x: f64, exponent: f64) -> f64 {
    x.powf(exponent)
}

/// The pairs in ascending order. The standard library's sorts are ten times as much code.
pub(crate) fn sorted(pairs: impl Iterator<Item = [usize; 2]>) -> Vec<[usize; 2]> {
    pairs.collect::<BinaryHeap<_>>().into_sorted_vec()
}
