//! Consistency models without a network: scalings and schedules of noise levels, noise, the sampler, editing.

pub mod edit;
pub mod edit_request;
pub mod noise;
pub mod rng;
pub mod sampler;
pub mod schedule;
