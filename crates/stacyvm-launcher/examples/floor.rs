//! Measures bare launches: from the request to the end of the setup, one after the other.
//!
//! `cargo run --release -p stacyvm-launcher --example floor -- LAUNCHER [COUNT] [ROOT]`, as root.
//! LAUNCHER is the launcher or the `scripted` example; ROOT a directory with a root file system.
#![allow(clippy::unwrap_used)]

#[path = "../tests/launch/support.rs"]
mod support;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use support::{Fixture, Launcher};

fn main() {
    let mut arguments = std::env::args().skip(1);
    let program = PathBuf::from(arguments.next().expect("name the launcher"));
    let count: usize = arguments.next().map_or(300, |count| count.parse().unwrap());
    let options: Vec<String> = arguments.collect();
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    let home = Fixture::new("floor");
    let mut launcher = Launcher::start(&program, &options, None);
    let (mut answered, mut ready, mut ended) = (Vec::new(), Vec::new(), Vec::new());
    let begin = Instant::now();
    for number in 0..count {
        let id = format!("floor-{number}");
        let mut request = home.request(&id, false, "sleep 1000\n");
        let start = Instant::now();
        let mut sandbox = launcher.launch(&mut request).unwrap();
        answered.push(start.elapsed());
        sandbox.set_up().unwrap();
        ready.push(start.elapsed());
        let start = Instant::now();
        drop(sandbox);
        ended.push(start.elapsed());
    }
    let rate = count as f64 / begin.elapsed().as_secs_f64();
    println!("launch and end, one after the other: {rate:.0} a second");
    for (name, mut samples) in [("answered", answered), ("ready", ready), ("ended", ended)] {
        samples.drain(..samples.len().min(20));
        samples.sort_unstable();
        let at = |part: f64| -> Duration { samples[((samples.len() - 1) as f64 * part) as usize] };
        println!(
            "{name:9} p50 {:>10.3?}  p95 {:>10.3?}  p99 {:>10.3?}",
            at(0.50),
            at(0.95),
            at(0.99)
        );
    }
}
