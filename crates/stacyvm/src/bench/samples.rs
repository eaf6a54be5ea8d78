//! Figures: many samples of one thing, and what is said about them.

use std::time::Duration;

use serde::Serialize;

/// What a sample counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Unit {
    Milliseconds,
    MegabytesPerSecond,
    PerSecond,
    Mebibytes,
    Count,
}

impl Unit {
    const fn label(self) -> &'static str {
        match self {
            Self::Milliseconds => "ms",
            Self::MegabytesPerSecond => "MB/s",
            Self::PerSecond => "/s",
            Self::Mebibytes => "MiB",
            Self::Count => "",
        }
    }

    /// Whether a smaller figure is the better one.
    pub(crate) const fn smaller_is_better(self) -> bool {
        matches!(self, Self::Milliseconds | Self::Mebibytes)
    }
}

/// One row: every sample of one thing, kept raw.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Samples {
    pub(crate) name: String,
    pub(crate) unit: Unit,
    pub(crate) values: Vec<f64>,
    /// What failed; a figure with failures behind it is not to be believed.
    pub(crate) failures: u64,
    /// The goal, in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) goal: Option<&'static str>,
    /// The same thing without a server, taken in the same run.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) floor: Vec<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) note: Option<String>,
}

impl Samples {
    pub(crate) fn new(name: impl Into<String>, unit: Unit) -> Self {
        Self {
            name: name.into(),
            unit,
            values: Vec::new(),
            failures: 0,
            goal: None,
            floor: Vec::new(),
            note: None,
        }
    }

    pub(crate) fn goal(mut self, goal: &'static str) -> Self {
        self.goal = Some(goal);
        self
    }

    /// One figure, or one failure.
    pub(crate) fn time<T, E>(&mut self, taken: Duration, result: &Result<T, E>) {
        match result {
            Ok(_) => self.values.push(milliseconds(taken)),
            Err(_) => self.failures += 1,
        }
    }

    /// The row as cells: name, p50, p95, p99, n, goal, floor p50, ratio.
    pub(crate) fn cells(&self) -> Vec<String> {
        let figure = |share| percentile(&self.values, share);
        let shown = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), round);
        let floor = percentile(&self.floor, 0.5);
        let ratio = match (figure(0.5), floor) {
            (Some(value), Some(floor)) if value > 0.0 && floor > 0.0 => {
                if self.unit.smaller_is_better() {
                    format!("{:.2}x", value / floor)
                } else {
                    format!("{:.2}x", floor / value)
                }
            }
            _ => "-".to_owned(),
        };
        // For a rate the bad tail is the low one.
        let tail = |share: f64| {
            if self.unit.smaller_is_better() {
                figure(share)
            } else {
                figure(1.0 - share)
            }
        };
        let mut count = self.values.len().to_string();
        if self.failures > 0 {
            count.push_str(&format!(" ({} failed)", self.failures));
        }
        vec![
            format!("{} {}", self.name, self.unit.label())
                .trim_end()
                .to_owned(),
            shown(figure(0.5)),
            shown(tail(0.95)),
            shown(tail(0.99)),
            count,
            self.goal.unwrap_or("-").to_owned(),
            shown(floor),
            ratio,
        ]
    }
}

/// The heading of `cells`.
pub(crate) const HEADING: [&str; 8] = ["ROW", "P50", "P95", "P99", "N", "GOAL", "FLOOR", "RATIO"];

/// The value below which `share` of the samples lie (nearest rank).
pub(crate) fn percentile(values: &[f64], share: f64) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a share of a length is a small positive number"
    )]
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied()
}

pub(crate) fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

fn round(value: f64) -> String {
    match value.abs() {
        large if large >= 1000.0 => format!("{value:.0}"),
        middle if middle >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_samples_that_were_taken() {
        let values: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!(percentile(&values, 0.5), Some(50.0));
        assert_eq!(percentile(&values, 0.99), Some(99.0));
        assert_eq!(percentile(&values, 1.0), Some(100.0));
        assert_eq!(percentile(&[7.0], 0.5), Some(7.0));
        assert_eq!(percentile(&[7.0], 0.0), Some(7.0));
        assert_eq!(percentile(&[], 0.5), None);
    }

    #[test]
    fn the_ratio_says_how_much_worse_than_the_floor() {
        let mut time = Samples::new("create", Unit::Milliseconds);
        time.values = vec![4.0];
        time.floor = vec![2.0];
        assert_eq!(time.cells()[7], "2.00x");
        let mut rate = Samples::new("read", Unit::MegabytesPerSecond);
        rate.values = vec![500.0];
        rate.floor = vec![1000.0];
        assert_eq!(rate.cells()[7], "2.00x");
    }
}
