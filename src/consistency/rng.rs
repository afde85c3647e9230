//! The random numbers of `torch.Generator("cpu")`, so that a seed means the same picture here as in diffusers.
//!
//! The engine is MT19937 (Matsumoto & Nishimura 1998). PyTorch makes normals of it in two ways, and
//! which one depends on how many are asked for at once:
//! - 16 or more: Box–Muller in f32 over blocks of 16, eight radii with eight angles; where the count is not
//!   a multiple of 16, the last 16 values are drawn anew.
//! - fewer than 16: Box–Muller in f64 one by one, the second value of each pair kept for the next call.

use crate::compact;

const N: usize = 624;
const M: usize = 397;

/// A stream of random numbers, the same as `torch.Generator("cpu").manual_seed(seed)`'s.
#[derive(Clone)]
pub struct Generator {
    state: [u32; N],
    next: usize,
    /// The second normal of the last pair that the one-by-one path made.
    spare: Option<f64>,
}

impl Generator {
    /// Starts the stream of `seed`. As in PyTorch, only the seed's low 32 bits reach the engine.
    pub fn new(seed: u64) -> Self {
        let mut state = [0; N];
        state[0] = seed as u32;
        for i in 1..N {
            let previous = state[i - 1];
            state[i] = 1_812_433_253u32.wrapping_mul(previous ^ (previous >> 30)).wrapping_add(i as u32);
        }
        Self { state, next: N, spare: None }
    }

    /// The next 32 random bits.
    pub fn next_u32(&mut self) -> u32 {
        if self.next == N {
            for i in 0..N {
                let y = (self.state[i] & 0x8000_0000) | (self.state[(i + 1) % N] & 0x7fff_ffff);
                let twist = if y & 1 == 1 { 0x9908_b0df } else { 0 };
                self.state[i] = self.state[(i + M) % N] ^ (y >> 1) ^ twist;
            }
            self.next = 0;
        }
        let mut y = self.state[self.next];
        self.next += 1;
        y ^= y >> 11;
        y ^= (y << 7) & 0x9d2c_5680;
        y ^= (y << 15) & 0xefc6_0000;
        y ^ (y >> 18)
    }

    /// Fills `out` with standard normals, as one `torch.randn` call of that many elements does.
    pub fn randn(&mut self, out: &mut [f32]) {
        if out.len() < 16 {
            out.fill_with(|| self.normal() as f32);
            return;
        }
        out.fill_with(|| self.uniform_f32());
        let (blocks, rest) = out.as_chunks_mut::<16>();
        blocks.iter_mut().for_each(box_muller_16);
        if !rest.is_empty() {
            let start = out.len() - 16;
            let last: &mut [f32; 16] = (&mut out[start..]).try_into().expect("16 values");
            last.fill_with(|| self.uniform_f32());
            box_muller_16(last);
        }
    }

    /// Fills `out` with whole numbers below `bound`, as one `torch.randint(0, bound, …)` call does.
    pub fn randint(&mut self, bound: u32, out: &mut [u32]) {
        out.fill_with(|| self.next_u32() % bound);
    }

    /// One whole number below `bound`, as one `torch.randint(0, bound, (1,))` call draws it.
    pub fn below(&mut self, bound: usize) -> usize {
        self.next_u32() as usize % bound
    }

    /// U[0, 1) on a grid of 2⁻²⁴.
    fn uniform_f32(&mut self) -> f32 {
        (self.next_u32() & 0x00ff_ffff) as f32 / (1 << 24) as f32
    }

    /// U[0, 1) on a grid of 2⁻⁵³.
    pub fn uniform_f64(&mut self) -> f64 {
        let high = u64::from(self.next_u32());
        let bits = high << 32 | u64::from(self.next_u32());
        (bits & ((1 << 53) - 1)) as f64 / (1u64 << 53) as f64
    }

    /// One standard normal, as a `torch.randn` call of one f64 makes it.
    pub fn normal(&mut self) -> f64 {
        if let Some(spare) = self.spare.take() {
            return spare;
        }
        let (u1, u2) = (self.uniform_f64(), self.uniform_f64());
        let radius = (-2.0 * compact::ln_1p(-u2)).sqrt();
        let angle = std::f64::consts::TAU * u1;
        self.spare = Some(radius * compact::sin(angle));
        radius * compact::cos(angle)
    }
}

/// Turns 16 uniforms into 16 normals: value `j` and value `j + 8` are a pair.
fn box_muller_16(block: &mut [f32; 16]) {
    for j in 0..8 {
        let (u1, u2) = (1.0 - block[j], block[j + 8]);
        let radius = (-2.0 * compact::ln(u1.into()) as f32).sqrt();
        let angle = f64::from(std::f32::consts::TAU * u2);
        block[j] = radius * compact::cos(angle) as f32;
        block[j + 8] = radius * compact::sin(angle) as f32;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_engine_is_mt19937() {
        // The published check value: the 10,000th output for the seed 5489.
        let mut g = Generator::new(5489);
        let last = (0..10_000).map(|_| g.next_u32()).last();
        assert_eq!(last, Some(4_123_659_995));
    }

    #[test]
    fn moments_are_those_of_a_normal() {
        let mut z = vec![0.0; 100_000];
        Generator::new(3).randn(&mut z);
        let mean = z.iter().map(|&v| f64::from(v)).sum::<f64>() / z.len() as f64;
        let var = z.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>() / z.len() as f64;
        assert!(mean.abs() < 0.01 && (var - 1.0).abs() < 0.02, "mean {mean}, variance {var}");
    }
}
