//! One kernel and one gradient for each operation of [`super`], on the rows of one group of samples.
//!
//! A map is (C, n, H·W), n samples. Loops run over slices of equal length, which the compiler vectorises. Results are
//! collected, not written over zeros, since memory bandwidth limits the small operations.

use std::ops::Range;

use super::Shape;
use super::product::{Matrix, MatrixMut, Store, product};

/// Columns of a convolution's unfolded input (im2col) that are made at a time, few enough to stay in a core's L2 cache
/// until the product reads them.
const COLUMNS: usize = 256;

/// A convolution with zero padding; a linear layer is one of kernel 1 on one pixel.
pub(crate) struct Convolution {
    pub weight: Range<usize>, // (out, in·k·k)
    pub bias: Range<usize>,   // (out)
    pub input: Shape,
    pub output: Shape,
    pub kernel: usize,
    pub stride: usize,
    /// Rows and columns of zeros before the first; those after the last follow from the sizes.
    pub padding: usize,
}

impl Convolution {
    /// Whether the unfolded input is the input itself.
    fn is_product(&self) -> bool {
        self.kernel == 1 && self.stride == 1 && self.padding == 0
    }

    fn depth(&self) -> usize {
        self.input.channels * self.kernel * self.kernel
    }

    fn chunks(&self, n: usize) -> impl Iterator<Item = Chunk> {
        let Shape { height, width, .. } = self.output;
        let (samples, lines) = match self.is_product() {
            true => (n, height),
            false if self.output.pixels() <= COLUMNS => ((COLUMNS / self.output.pixels()).min(n), height),
            false => (1, (COLUMNS / width).max(1)),
        };
        (0..n).step_by(samples).flat_map(move |s| {
            let samples = s..(s + samples).min(n);
            (0..height)
                .step_by(lines)
                .map(move |y| Chunk { samples: samples.clone(), lines: y..(y + lines).min(height) })
        })
    }

    /// The first column of a chunk and how many there are.
    fn span(&self, chunk: &Chunk) -> (usize, usize) {
        let start = chunk.samples.start * self.output.pixels() + chunk.lines.start * self.output.width;
        (start, chunk.samples.len() * chunk.lines.len() * self.output.width)
    }

    /// W·unfold(x) + b. `columns` is scratch, grown as needed.
    pub fn forward(&self, weights: &[f32], x: &[f32], n: usize, columns: &mut Vec<f32>) -> Vec<f32> {
        let pixels = self.output.pixels();
        let mut out = Vec::with_capacity(self.output.channels * n * pixels);
        weights[self.bias.clone()].iter().for_each(|b| out.resize(out.len() + n * pixels, *b));
        let weight = Matrix::new(&weights[self.weight.clone()], self.output.channels, self.depth());
        for chunk in self.chunks(n) {
            let (start, width) = self.span(&chunk);
            let unfolded = self.unfolded(x, n, &chunk, columns);
            let out = MatrixMut::new(&mut out, self.output.channels, n * pixels);
            product(out.block(0, start, self.output.channels, width), Store::Add, weight, unfolded, 1.0);
        }
        out
    }

    /// Adds to the gradients of weight and bias in `dw`; returns that of x if it `is_needed`. `columns` is scratch.
    #[expect(clippy::too_many_arguments, reason = "the forward's arguments and the gradients")]
    pub fn gradient(
        &self,
        weights: &[f32],
        x: &[f32],
        n: usize,
        g: &[f32],
        dw: &mut [f32],
        is_needed: bool,
        columns: &mut Vec<f32>,
    ) -> Option<Vec<f32>> {
        let (pixels, depth, rows) = (self.output.pixels(), self.depth(), self.output.channels);
        for (row, db) in g.chunks_exact(n * pixels).zip(&mut dw[self.bias.clone()]) {
            *db += sum(row);
        }
        if self.keeps_size() && is_needed {
            return Some(self.mirrored_gradient(weights, x, n, g, dw, columns));
        }
        let mut dx = is_needed.then(|| vec![0.0; x.len()]);
        let weight = Matrix::new(&weights[self.weight.clone()], rows, depth);
        for chunk in self.chunks(n) {
            let (start, width) = self.span(&chunk);
            let g = Matrix::new(g, rows, n * pixels).block(0, start, rows, width);
            let unfolded = self.unfolded(x, n, &chunk, columns);
            let dw = MatrixMut::new(&mut dw[self.weight.clone()], rows, depth);
            product(dw, Store::Add, g, unfolded.transposed(), 1.0);
            let Some(dx) = &mut dx else { continue };
            if self.is_product() {
                let dx = MatrixMut::new(dx, depth, n * pixels);
                product(dx, Store::Add, weight.transposed(), g, 1.0);
            } else {
                let folded = &mut columns[..depth * width];
                product(MatrixMut::new(folded, depth, width), Store::Replace, weight.transposed(), g, 1.0);
                self.fold(folded, n, &chunk, dx);
            }
        }
        dx
    }

    /// [`Self::gradient`] of a 3×3 layer that keeps the size: dx is the convolution of g with the kernel rotated by 180°.
    /// Both dx and dw are products with g unfolded, so that no fold is needed.
    fn mirrored_gradient(
        &self,
        weights: &[f32],
        x: &[f32],
        n: usize,
        g: &[f32],
        dw: &mut [f32],
        columns: &mut Vec<f32>,
    ) -> Vec<f32> {
        let (inputs, outputs, pixels) = (self.input.channels, self.output.channels, self.output.pixels());
        let mirror = Self {
            weight: self.weight.clone(),
            bias: self.bias.clone(),
            input: self.output,
            output: self.input,
            ..*self
        };
        // (out, in, 9) to (in, out, 9), the last backwards, and back.
        let turned = |from: &[f32], rows: usize, columns: usize| {
            let mut to = Vec::with_capacity(from.len());
            for (c, r) in (0..columns).flat_map(|c| (0..rows).map(move |r| (c, r))) {
                to.extend(from[(r * columns + c) * 9..][..9].iter().rev());
            }
            to
        };
        let weight = turned(&weights[self.weight.clone()], outputs, inputs);
        let weight = Matrix::new(&weight, inputs, mirror.depth());
        let mut turned_dw = vec![0.0; inputs * mirror.depth()];
        let mut dx = vec![0.0; x.len()];
        for chunk in mirror.chunks(n) {
            let (start, width) = mirror.span(&chunk);
            let unfolded = mirror.unfolded(g, n, &chunk, columns);
            let dx = MatrixMut::new(&mut dx, inputs, n * pixels).block(0, start, inputs, width);
            product(dx, Store::Replace, weight, unfolded, 1.0);
            let x = Matrix::new(x, inputs, n * pixels).block(0, start, inputs, width);
            let dw = MatrixMut::new(&mut turned_dw, inputs, mirror.depth());
            product(dw, Store::Add, x, unfolded.transposed(), 1.0);
        }
        accumulate(&turned(&turned_dw, inputs, outputs), &mut dw[self.weight.clone()]);
        dx
    }

    /// The patches under the kernel, (in·k·k, columns of the chunk): a part of x, or a copy in `columns`.
    fn unfolded<'a>(&self, x: &'a [f32], n: usize, chunk: &Chunk, columns: &'a mut Vec<f32>) -> Matrix<'a> {
        if self.is_product() {
            return Matrix::new(x, self.input.channels, n * self.output.pixels());
        }
        let (_, count) = self.span(chunk);
        let len = self.depth() * count;
        if columns.len() < len {
            columns.resize(len, 0.0);
        }
        let columns = &mut columns[..len];
        let width = self.output.width;
        if self.keeps_size() {
            let planes = columns.chunks_exact_mut(chunk.lines.len() * width);
            for (view, plane) in self.views(n, chunk).zip(planes) {
                plane[..view.inside.start].fill(0.0);
                plane[view.inside.end..].fill(0.0);
                plane[view.inside.clone()].copy_from_slice(&x[view.source]);
                clear_wrapped(plane, view.kx, width);
            }
            return Matrix::new(columns, self.depth(), count);
        }
        let mut lines = columns.chunks_exact_mut(width);
        self.for_each_line(n, chunk, |source, skip| {
            let line = lines.next().expect("a line for each");
            let Some((from, count)) = source else { return line.fill(0.0) };
            line[..skip].fill(0.0);
            line[skip + count..].fill(0.0);
            let line = &mut line[skip..skip + count];
            match self.stride {
                1 => line.copy_from_slice(&x[from..from + count]),
                stride => line.iter_mut().zip(x[from..].iter().step_by(stride)).for_each(|(l, x)| *l = *x),
            }
        });
        Matrix::new(columns, self.depth(), count)
    }

    /// Adds each column's entries to the pixels that they were copied from; entries of the padding are dropped.
    fn fold(&self, columns: &[f32], n: usize, chunk: &Chunk, dx: &mut [f32]) {
        let mut lines = columns.chunks_exact(self.output.width);
        self.for_each_line(n, chunk, |source, skip| {
            let line = lines.next().expect("a line for each");
            let Some((from, count)) = source else { return };
            let line = &line[skip..skip + count];
            match self.stride {
                1 => accumulate(line, &mut dx[from..from + count]),
                stride => dx[from..].iter_mut().step_by(stride).zip(line).for_each(|(d, l)| *d += *l),
            }
        });
    }

    /// Whether this is a 3×3 convolution of stride 1 and padding 1: then each tap reads the plane shifted by an offset.
    fn keeps_size(&self) -> bool {
        self.kernel == 3 && self.stride == 1 && self.padding == 1 && self.output.pixels() == self.input.pixels()
    }

    /// The part of each plane that each tap reads, in the order of the columns.
    fn views(&self, n: usize, chunk: &Chunk) -> impl Iterator<Item = View> {
        let (pixels, width) = (self.input.pixels() as isize, self.input.width as isize);
        let (begin, end) = (chunk.lines.start as isize * width, chunk.lines.end as isize * width);
        let samples = chunk.samples.clone();
        (0..self.input.channels * 9).flat_map(move |row| {
            let (c, tap) = (row / 9, row % 9);
            let offset = (tap as isize / 3 - 1) * width + tap as isize % 3 - 1;
            // Pixels p of the chunk for which p + offset lies in the plane.
            let first = (-offset).clamp(begin, end);
            let last = (pixels - offset).clamp(first, end);
            samples.clone().map(move |s| {
                let from = ((c * n + s) as isize * pixels + first + offset) as usize;
                View {
                    kx: tap % 3,
                    inside: (first - begin) as usize..(last - begin) as usize,
                    source: if first < last { from..from + (last - first) as usize } else { 0..0 },
                }
            })
        })
    }

    /// Visits the output rows of each tap of the kernel in the order of the columns: where in x the row's first pixel
    /// inside the map lies and how many there are (None where the whole row is padding), and how many padded ones
    /// come before.
    fn for_each_line(&self, n: usize, chunk: &Chunk, mut visit: impl FnMut(Option<(usize, usize)>, usize)) {
        let Shape { height, width, .. } = self.input;
        let (k, stride, padding) = (self.kernel, self.stride, self.padding);
        for c in 0..self.input.channels {
            for (ky, kx) in (0..k).flat_map(|ky| (0..k).map(move |kx| (ky, kx))) {
                // Output columns whose input column ox·stride + kx − padding lies in 0..width.
                let skip = padding.saturating_sub(kx).div_ceil(stride);
                let end = (width + padding).saturating_sub(kx).div_ceil(stride).min(self.output.width);
                for s in chunk.samples.clone() {
                    for oy in chunk.lines.clone() {
                        let y = (oy * stride + ky).wrapping_sub(padding); // above the map it wraps to beyond it
                        let source = (y < height && end > skip).then(|| {
                            let from = ((c * n + s) * height + y) * width + skip * stride + kx - padding;
                            (from, end - skip)
                        });
                        visit(source, skip);
                    }
                }
            }
        }
    }
}

/// Columns of the unfolded input that are made together: whole samples, or some rows of one.
struct Chunk {
    samples: Range<usize>,
    /// Rows of the output.
    lines: Range<usize>,
}

/// The part of one plane that one tap of a 3×3 kernel reads: for the chunk's pixels in `inside` the values x\[`source`\],
/// for the others padding.
struct View {
    kx: usize,
    inside: Range<usize>,
    source: Range<usize>,
}

/// Zeroes the column that a shift to the left (kx = 2) or right (kx = 0) filled from the neighbouring row.
fn clear_wrapped(plane: &mut [f32], kx: usize, width: usize) {
    let column = match kx {
        0 => 0,
        1 => return,
        _ => width - 1,
    };
    plane[column..].iter_mut().step_by(width).for_each(|v| *v = 0.0);
}

/// Group normalisation with weight and bias.
pub(super) struct Normalisation {
    pub weight: Range<usize>,
    pub bias: Range<usize>,
    pub groups: usize,
    pub eps: f32,
}

impl Normalisation {
    /// (x − mean)/√(var + ε)·weight + bias, and mean and 1/√(var + ε), (groups, n).
    pub fn forward(&self, weights: &[f32], x: &[f32], n: usize, pixels: usize) -> (Vec<f32>, Vec<[f32; 2]>) {
        let (weight, bias) = (&weights[self.weight.clone()], &weights[self.bias.clone()]);
        let per_group = weight.len() / self.groups;
        let count = (per_group * pixels) as f32;
        let statistics = |i: usize| {
            let (group, s) = (i / n, i % n);
            let rows = || (group * per_group..(group + 1) * per_group).map(|c| &x[(c * n + s) * pixels..][..pixels]);
            let mean = rows().map(sum).sum::<f32>() / count;
            let squares = rows().map(|row| sum_map(row, |x| (x - mean) * (x - mean))).sum::<f32>();
            [mean, 1.0 / (squares / count + self.eps).sqrt()]
        };
        let statistics: Vec<[f32; 2]> = (0..self.groups * n).map(statistics).collect();
        let mut out = Vec::with_capacity(x.len());
        for (row, x) in x.chunks_exact(pixels).enumerate() {
            let (c, s) = (row / n, row % n);
            let [mean, scale] = statistics[c / per_group * n + s];
            let (factor, offset) = (scale * weight[c], bias[c] - mean * scale * weight[c]);
            out.extend(x.iter().map(|x| x * factor + offset));
        }
        (out, statistics)
    }

    /// Adds to the gradients of weight and bias in `dw`; returns that of x.
    #[expect(clippy::too_many_arguments, reason = "the forward's arguments and the gradients")]
    pub fn gradient(
        &self,
        weights: &[f32],
        x: &[f32],
        statistics: &[[f32; 2]],
        n: usize,
        pixels: usize,
        g: &[f32],
        dw: &mut [f32],
    ) -> Vec<f32> {
        let weight = &weights[self.weight.clone()];
        let per_group = weight.len() / self.groups;
        let count = (per_group * pixels) as f32;
        // With x̂ = (x − mean)·scale and ĝ = weight·g: dx = scale·(ĝ − mean(ĝ) − x̂·mean(ĝ·x̂)).
        let mut means = vec![[0.0; 2]; statistics.len()];
        let rows = || x.chunks_exact(pixels).zip(g.chunks_exact(pixels)).enumerate();
        for (row, (x, g)) in rows() {
            let (c, s) = (row / n, row % n);
            let group = c / per_group * n + s;
            let [mean, scale] = statistics[group];
            let db = sum(g);
            let dweight = (dot(g, x) - mean * db) * scale;
            dw[self.weight.start + c] += dweight;
            dw[self.bias.start + c] += db;
            means[group][0] += weight[c] * db / count;
            means[group][1] += weight[c] * dweight / count;
        }
        let mut dx = Vec::with_capacity(x.len());
        for (row, (x, g)) in rows() {
            let (c, s) = (row / n, row % n);
            let group = c / per_group * n + s;
            let ([mean, scale], [plain, along]) = (statistics[group], means[group]);
            let (factor, slope) = (scale * weight[c], scale * scale * along);
            let offset = slope * mean - scale * plain;
            dx.extend(x.iter().zip(g).map(|(x, g)| g * factor - x * slope + offset));
        }
        dx
    }
}

/// softmax(qᵀ·k/√head_dim) applied to v, for each head of each sample; q, k, v are (heads·head_dim, n, H·W).
pub(super) struct Attention {
    pub heads: usize,
    pub head_dim: usize,
}

impl Attention {
    pub fn forward(&self, qkv: [&[f32]; 3], n: usize, pixels: usize) -> Vec<f32> {
        let channels = self.heads * self.head_dim;
        let mut out = vec![0.0; qkv[0].len()];
        let mut p = vec![0.0; pixels * pixels];
        for (head, s) in self.parts(n) {
            let [q, k, v] = qkv.map(|x| self.part(x, n, pixels, head, s));
            self.probabilities(q, k, &mut p);
            let part = MatrixMut::new(&mut out, channels, n * pixels);
            let part = part.block(head * self.head_dim, s * pixels, self.head_dim, pixels);
            let p = Matrix::new(&p, pixels, pixels);
            product(part, Store::Replace, v, p.transposed(), 1.0);
        }
        out
    }

    /// The gradients with respect to q, k and v.
    pub fn gradient(&self, qkv: [&[f32]; 3], n: usize, pixels: usize, g: &[f32]) -> [Vec<f32>; 3] {
        let channels = self.heads * self.head_dim;
        let mut gradients = [(); 3].map(|()| vec![0.0; g.len()]);
        let mut p = vec![0.0; pixels * pixels];
        let mut dp = vec![0.0; pixels * pixels];
        let factor = 1.0 / (self.head_dim as f32).sqrt();
        for (head, s) in self.parts(n) {
            let [q, k, v] = qkv.map(|x| self.part(x, n, pixels, head, s));
            let g = self.part(g, n, pixels, head, s);
            self.probabilities(q, k, &mut p);
            let [dq, dk, dv] = gradients.each_mut().map(|d| {
                let d = MatrixMut::new(d, channels, n * pixels);
                d.block(head * self.head_dim, s * pixels, self.head_dim, pixels)
            });
            let square = Matrix::new(&p, pixels, pixels);
            product(dv, Store::Replace, g, square, 1.0);
            let to_dp = MatrixMut::new(&mut dp, pixels, pixels);
            product(to_dp, Store::Replace, g.transposed(), v, 1.0);
            // The gradient of a softmax: ds = p·(dp − Σ p·dp), row by row.
            for (p, dp) in p.chunks_exact(pixels).zip(dp.chunks_exact_mut(pixels)) {
                let mean = dot(p, dp);
                dp.iter_mut().zip(p).for_each(|(d, p)| *d = (*d - mean) * p * factor);
            }
            let ds = Matrix::new(&dp, pixels, pixels);
            product(dq, Store::Replace, k, ds.transposed(), 1.0);
            product(dk, Store::Replace, q, ds, 1.0);
        }
        gradients
    }

    fn parts(&self, n: usize) -> impl Iterator<Item = (usize, usize)> {
        (0..self.heads).flat_map(move |head| (0..n).map(move |s| (head, s)))
    }

    /// The rows of a head and the columns of a sample: (head_dim, pixels).
    fn part<'a>(&self, x: &'a [f32], n: usize, pixels: usize, head: usize, s: usize) -> Matrix<'a> {
        let x = Matrix::new(x, self.heads * self.head_dim, n * pixels);
        x.block(head * self.head_dim, s * pixels, self.head_dim, pixels)
    }

    /// p (queries, keys) of one head of one sample.
    fn probabilities(&self, q: Matrix<'_>, k: Matrix<'_>, p: &mut [f32]) {
        let pixels = q.columns();
        let factor = 1.0 / (self.head_dim as f32).sqrt();
        let scores = MatrixMut::new(p, pixels, pixels);
        product(scores, Store::Replace, q.transposed(), k, factor);
        for row in p.chunks_exact_mut(pixels) {
            let largest = row.iter().copied().fold(f32::MIN, f32::max);
            row.iter_mut().for_each(|p| *p = exp(*p - largest));
            let scale = 1.0 / sum(row);
            row.iter_mut().for_each(|p| *p *= scale);
        }
    }
}

/// x·sigmoid(x).
pub(super) fn silu(x: &[f32]) -> Vec<f32> {
    x.iter().map(|x| x / (1.0 + exp(-x))).collect()
}

/// g·(s + x·s·(1 − s)), s = sigmoid(x).
pub(super) fn silu_gradient(x: &[f32], g: &[f32]) -> Vec<f32> {
    let gradient = |(x, g): (&f32, &f32)| {
        let s = 1.0 / (1.0 + exp(-x));
        g * s * (1.0 + x * (1.0 - s))
    };
    x.iter().zip(g).map(gradient).collect()
}

/// a + b.
pub(super) fn add(a: &[f32], b: &[f32]) -> Vec<f32> {
    a.iter().zip(b).map(|(a, b)| a + b).collect()
}

/// to ← to + from.
pub(super) fn accumulate(from: &[f32], to: &mut [f32]) {
    to.iter_mut().zip(from).for_each(|(t, f)| *t += f);
}

/// x + v, v (C, n) broadcast over the pixels.
pub(super) fn add_channels(x: &[f32], v: &[f32], pixels: usize) -> Vec<f32> {
    let mut out = Vec::with_capacity(x.len());
    x.chunks_exact(pixels).zip(v).for_each(|(x, v)| out.extend(x.iter().map(|x| x + v)));
    out
}

/// The gradient of [`add_channels`] in v: the sums over the pixels.
pub(super) fn add_channels_gradient(g: &[f32], pixels: usize) -> Vec<f32> {
    g.chunks_exact(pixels).map(sum).collect()
}

/// x·(1 + scale) + shift, `v` (2C, n): the scales, then the shifts.
pub(super) fn scale_shift(x: &[f32], v: &[f32], pixels: usize) -> Vec<f32> {
    let (scale, shift) = v.split_at(v.len() / 2);
    let mut out = Vec::with_capacity(x.len());
    for (x, (scale, shift)) in x.chunks_exact(pixels).zip(scale.iter().zip(shift)) {
        out.extend(x.iter().map(|x| x * (1.0 + scale) + shift));
    }
    out
}

/// The gradient of [`scale_shift`] in x: g·(1 + scale).
pub(super) fn scale_gradient(v: &[f32], g: &[f32], pixels: usize) -> Vec<f32> {
    let mut dx = Vec::with_capacity(g.len());
    g.chunks_exact(pixels).zip(v).for_each(|(g, scale)| dx.extend(g.iter().map(|g| g * (1.0 + scale))));
    dx
}

/// The gradient of [`scale_shift`] in v: Σ x·g for the scales, Σ g for the shifts.
pub(super) fn scale_shift_gradient(x: &[f32], g: &[f32], pixels: usize) -> Vec<f32> {
    let rows = || x.chunks_exact(pixels).zip(g.chunks_exact(pixels));
    rows().map(|(x, g)| dot(x, g)).chain(rows().map(|(_, g)| sum(g))).collect()
}

/// Each pixel becomes 2×2; `width` is that of x.
pub(super) fn upsample(x: &[f32], width: usize) -> Vec<f32> {
    let mut out = vec![0.0; 4 * x.len()];
    for (rows, x) in out.chunks_exact_mut(4 * width).zip(x.chunks_exact(width)) {
        let (first, second) = rows.split_at_mut(2 * width);
        first.chunks_exact_mut(2).zip(x).for_each(|(pair, x)| pair.fill(*x));
        second.copy_from_slice(first);
    }
    out
}

/// Sums of 2×2; `width` is that of x.
pub(super) fn upsample_gradient(g: &[f32], width: usize) -> Vec<f32> {
    blocks(g, width, 1.0)
}

/// Means of 2×2; `width` is that of the result.
pub(super) fn downsample(x: &[f32], width: usize) -> Vec<f32> {
    blocks(x, width, 0.25)
}

/// A quarter to each of 2×2; `width` is that of the result.
pub(super) fn downsample_gradient(g: &[f32], width: usize) -> Vec<f32> {
    let mut dx = upsample(g, width);
    dx.iter_mut().for_each(|d| *d *= 0.25);
    dx
}

/// factor·(sums of 2×2 of x), `width` being that of the result.
fn blocks(x: &[f32], width: usize, factor: f32) -> Vec<f32> {
    let mut out = Vec::with_capacity(x.len() / 4);
    for rows in x.chunks_exact(4 * width) {
        let (first, second) = rows.split_at(2 * width);
        let blocks = first.chunks_exact(2).zip(second.chunks_exact(2));
        out.extend(blocks.map(|(a, b)| factor * ((a[0] + a[1]) + (b[0] + b[1]))));
    }
    out
}

/// Σ x, in 16 lanes, which vectorise and round less than one running sum.
fn sum(x: &[f32]) -> f32 {
    sum_map(x, |x| x)
}

fn sum_map(x: &[f32], map: impl Fn(f32) -> f32) -> f32 {
    let (chunks, rest) = x.as_chunks::<16>();
    let mut lanes = [0.0; 16];
    chunks.iter().for_each(|chunk| lanes.iter_mut().zip(chunk).for_each(|(l, x)| *l += map(*x)));
    lanes.iter().sum::<f32>() + rest.iter().map(|x| map(*x)).sum::<f32>()
}

/// Σ a·b.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<16>(), b.as_chunks::<16>());
    let mut lanes = [0.0; 16];
    for (a, b) in a.iter().zip(b) {
        lanes.iter_mut().zip(a.iter().zip(b)).for_each(|(l, (a, b))| *l += a * b);
    }
    lanes.iter().sum::<f32>() + a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum::<f32>()
}

/// eˣ to a relative 2e-7, in operations that vectorise: 2ⁿ·e^r with |r| ≤ ½·ln 2, e^r by its series to r⁷.
fn exp(x: f32) -> f32 {
    const SHIFT: f32 = 12_582_912.0; // 1.5·2²³: adding it leaves n in the low bits
    let x = x.clamp(-87.0, 88.0);
    let shifted = x * std::f32::consts::LOG2_E + SHIFT;
    let n = shifted - SHIFT;
    let r = x - n * 0.693_359_4 + n * 2.121_944_4e-4; // ln 2 in two parts, the first of few bits
    let series = [1.0 / 5040.0, 1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0];
    let power = series.iter().fold(0.0, |sum, c| sum * r + c);
    f32::from_bits((shifted.to_bits() << 23).wrapping_add(0x3f80_0000)) * power
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_has_a_relative_error_below_3e_minus_7() {
        for i in -8700..=8800 {
            let x = i as f32 / 100.0;
            let error = f64::from(exp(x)) / f64::from(x).exp() - 1.0;
            assert!(error.abs() < 3e-7, "exp({x}): relative error {error}");
        }
        assert_eq!(exp(0.0), 1.0);
        assert!(exp(-1e30) < 1e-37 && exp(1e30).is_finite());
    }
}
