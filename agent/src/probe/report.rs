//! What the probes are and do at the moment, as JSON for people and benchmarks.

use serde_json::{Value, json};

use crate::ebpf::Probes;

/// Everything that can be asked of the probes. Takes system calls, and may wait a second for hooks that are just being taken
/// away. Times of programs grow only while `kernel.bpf_stats_enabled` is 1.
pub fn report(probes: &Probes) -> Value {
    let facts = probes.facts();
    let runs = probes.runs();
    let watches = facts.watches.iter().map(|watch| {
        let counters = probes.snapshot(watch.pid);
        let syncs: u64 = counters.iter().flat_map(|counters| &counters.classes).map(|of| of.syncs()).sum();
        json!({
            "pid": watch.pid, "hook": watch.hook.name(), "reason": watch.reason, "cost": watch.cost(),
            "syncs": syncs,
        })
    });
    let untyped = facts.untyped.iter().map(|of| json!({"programs": of.programs, "reason": of.reason}));
    let degraded =
        facts.degraded.iter().map(|off| json!({"capability": off.capability, "reason": off.reason}));
    let programs = runs.iter().map(|of| {
        json!({"program": of.program, "runs": of.runs, "run_time_ns": of.run_time_ns, "missed": of.missed})
    });
    let losses = probes.losses();
    let lost = losses
        .iter()
        .map(|loss| json!({"program": loss.program, "reason": loss.reason, "count": loss.count}));
    json!({
        "watches": watches.collect::<Vec<_>>(),
        "attached": facts.attached,
        "untyped": untyped.collect::<Vec<_>>(),
        "degraded": degraded.collect::<Vec<_>>(),
        "programs": programs.collect::<Vec<_>>(),
        "lost": lost.collect::<Vec<_>>(),
    })
}
