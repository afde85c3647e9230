//! Which network: the configuration of a diffusers folder, and the U-Net that it describes.

pub mod config;
pub mod parse;
pub mod unet;
