//! `etcdmon-lab bench overhead`: what the agent costs etcd and everybody else on its host.
//!
//! Comparing two runs of etcd says little: the same build differs by a third from run to run. So one etcd runs under a
//! load, and the agent attaches and detaches its probes in place over many slots in random order. Intervals come from
//! resampling the slots. The benchmark has parts, each with an etcd of its own:
//!
//! | part | of what |
//! |---|---|
//! | `saturation` | the host's CPU time per put, the load generator's own included and the aggregator's left out (it belongs on another machine), at full speed |
//! | `fixed` | latency of puts, etcd's own CPU time and the agent's, at 1,000 puts/s |
//! | `others` | processes that have nothing to do with etcd: a system call, a pipe, two that wake each other |
//! | `syncs` | thousands of syncs a second on ext4 and, by the fallback hooks, on xfs: none is missed, and what it takes |
//! | `programs` | each kernel program: nanoseconds a run, runs and microseconds per put; good for comparing builds even on a busy machine |

use anyhow::{Result, ensure};
use serde_json::json;

use crate::place::Place;
use crate::tools;

mod figures;
mod fixed;
pub mod load;
mod others;
mod programs;
mod saturation;
mod stage;
pub mod storage;
mod syncs;

use figures::Figure;
pub(crate) use stage::{process_cpu, resident_bytes};

/// A part of the benchmark.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Part {
    /// Host CPU per put at full speed.
    Saturation,
    /// Latency and CPU at 1,000 puts/s.
    Fixed,
    /// Foreign processes.
    Others,
    /// Thousands of syncs a second.
    Syncs,
    /// Time of each kernel program.
    Programs,
}

impl Part {
    const ALL: [Self; 5] = [Self::Saturation, Self::Fixed, Self::Others, Self::Syncs, Self::Programs];

    const fn name(self) -> &'static str {
        match self {
            Self::Saturation => "saturation",
            Self::Fixed => "fixed",
            Self::Others => "others",
            Self::Syncs => "syncs",
            Self::Programs => "programs",
        }
    }

    async fn measure(self, place: &Place, slots: Option<u32>) -> Result<Vec<Figure>> {
        match self {
            Self::Saturation => saturation::measure(place, slots.unwrap_or(300)).await,
            Self::Fixed => fixed::measure(place, slots.unwrap_or(60)).await,
            Self::Others => others::measure(place, slots.unwrap_or(200)).await,
            Self::Syncs => syncs::measure(place, slots.unwrap_or(60)).await,
            Self::Programs => programs::measure(place).await,
        }
    }
}

/// Runs these parts, or all; `slots` in place of each part's own number. Prints what it does, the figures of each part as
/// JSON on a line when it ends, and those of all on the last line.
///
/// # Errors
/// When a part does not start, or the agent can't switch its probes. The parts after it are measured all the same.
pub async fn overhead(parts: &[Part], slots: Option<u32>) -> Result<()> {
    ensure!(tools::is_root(), "needs root for probes");
    let (mut all, mut failed) = (Vec::new(), Vec::new());
    for part in if parts.is_empty() { &Part::ALL } else { parts } {
        let name = part.name();
        println!("== {name}");
        let place = Place::new()?;
        match part.measure(&place, slots).await {
            Ok(figures) => {
                figures.iter().for_each(|figure| println!("{}", figure.line()));
                let json: Vec<_> = figures.iter().map(Figure::json).collect();
                println!("{}", json!({"bench": "overhead", "part": name, "figures": json}));
                all.extend(json);
            }
            Err(error) => {
                eprintln!("{}\npart {name} failed: {error:#}", place.log_tails(20));
                failed.push(name);
            }
        }
    }
    ensure!(failed.is_empty(), "failed: {}; the others are measured", failed.join(", "));
    println!("{}", json!({"bench": "overhead", "figures": all}));
    Ok(())
}
