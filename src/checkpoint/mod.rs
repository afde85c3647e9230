//! Models as diffusers stores them: folders on disk, safetensors from a stream of bytes, conversion to fewer bits.

#[cfg(not(target_arch = "wasm32"))]
pub mod convert;
pub mod encode;
#[cfg(not(target_arch = "wasm32"))]
pub mod folder;
pub mod stream;
#[cfg(not(target_arch = "wasm32"))]
pub(crate) mod sums;
pub mod tensor;
