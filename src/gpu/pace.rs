//! Cuts a call into submits of bounded time, between which a desktop can draw and a call can be cancelled.

use std::ops::Range;

/// Seconds that a submit should take. A desktop stands still as long, and Windows resets a GPU after two seconds.
const SUBMIT: f64 = 0.05;

/// Multiply-adds a second before anything was measured: those of a slow GPU, so that the first submit is not too long.
const SLOW: f64 = 1e10;

/// What a launch without a product counts for, in multiply-adds: about a megabyte read and written.
const LEAST: f64 = 1e6;

/// How many times longer a launch may become by one measurement. The first one may hold the time of compiling, or of other
/// programs, and cutting a small network for that would take longer than the network does.
const GROWTH: f64 = 8.0;

/// The time of each launch of a plan, estimated until it was measured.
pub(super) struct Pace {
    seconds: Vec<f64>,
    /// What estimates are made of, in multiply-adds.
    costs: Vec<f64>,
    /// How many launches, from the first one on, were measured.
    measured: usize,
}

impl Pace {
    /// Estimates from the multiply-adds of each launch over the whole batch.
    pub(super) fn of(multiply_adds: impl Iterator<Item = usize>) -> Self {
        let costs: Vec<f64> = multiply_adds.map(|n| (n as f64).max(LEAST)).collect();
        Self { seconds: costs.iter().map(|cost| cost / SLOW).collect(), costs, measured: 0 }
    }

    /// The launches from `first` on that go into one submit: one at least.
    pub(super) fn piece(&self, first: usize) -> Range<usize> {
        let mut sum = 0.0;
        let rest = &self.seconds[first..];
        let fit = rest.iter().take_while(|&seconds| {
            sum += seconds;
            sum <= SUBMIT
        });
        let end = first + fit.count().max(1);
        // A short rest is not worth a submit of its own.
        if self.seconds[end.min(self.seconds.len())..].iter().sum::<f64>() < SUBMIT / 2.0 {
            first..self.seconds.len()
        } else {
            first..end
        }
    }

    /// Takes over how long the launches of a piece took. Those that were never measured are estimated at the rate of all that
    /// were.
    pub(super) fn measure(&mut self, piece: Range<usize>, seconds: f64) {
        let scale = (seconds.max(1e-6) / self.seconds[piece.clone()].iter().sum::<f64>()).min(GROWTH);
        self.seconds[piece.clone()].iter_mut().for_each(|estimate| *estimate *= scale);
        if piece.end > self.measured {
            self.measured = piece.end;
            let rate = self.seconds[..piece.end].iter().sum::<f64>() / self.costs[..piece.end].iter().sum::<f64>();
            for (estimate, cost) in self.seconds.iter_mut().zip(&self.costs).skip(piece.end) {
                *estimate = cost * rate;
            }
        }
    }

    /// The share of a call's time that its first launches take.
    pub(super) fn share(&self, launches: usize) -> f64 {
        self.seconds[..launches].iter().sum::<f64>() / self.seconds.iter().sum::<f64>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(pace: &Pace) -> Vec<usize> {
        let mut ends = vec![0];
        while *ends.last().unwrap() < pace.seconds.len() {
            ends.push(pace.piece(*ends.last().unwrap()).end);
        }
        ends.windows(2).map(|pair| pair[1] - pair[0]).collect()
    }

    /// Each launch takes `seconds`; measures a whole call piece by piece, as a plan does.
    fn call(pace: &mut Pace, seconds: f64) -> usize {
        let (mut first, mut submits) = (0, 0);
        while first < pace.seconds.len() {
            let piece = pace.piece(first);
            first = piece.end;
            submits += 1;
            pace.measure(piece.clone(), piece.len() as f64 * seconds);
        }
        submits
    }

    #[test]
    fn a_small_network_is_one_submit() {
        assert_eq!(pieces(&Pace::of([1_000_000; 100].into_iter())), [100]);
    }

    #[test]
    fn a_launch_that_takes_longer_than_a_submit_should_is_one_alone() {
        assert_eq!(pieces(&Pace::of([2_000_000_000; 3].into_iter())), [1, 1, 1]);
    }

    #[test]
    fn the_rate_that_was_measured_holds_for_the_rest_of_the_first_call() {
        // 10¹² multiply-adds a second: 0.1 ms a launch.
        let mut pace = Pace::of([100_000_000; 1000].into_iter());
        let submits = call(&mut pace, 1e-4);
        assert!((3..=4).contains(&submits), "{submits}");
        assert_eq!(call(&mut pace, 1e-4), 2);
        assert!((pace.share(500) - 0.5).abs() < 1e-9);
    }

    #[test]
    fn submits_become_shorter_when_the_gpu_is_slower_than_it_was() {
        let mut pace = Pace::of([100_000_000; 100].into_iter());
        call(&mut pace, 1e-4);
        assert_eq!(pieces(&pace), [100]);
        call(&mut pace, 0.0007);
        call(&mut pace, 0.0055);
        call(&mut pace, 0.011);
        assert_eq!(pieces(&pace), [4; 25]);
    }

    #[test]
    fn one_long_measurement_does_not_cut_a_small_network() {
        let mut pace = Pace::of([0; 50].into_iter());
        call(&mut pace, 0.1);
        assert_eq!(pieces(&pace), [50]);
    }
}
