//! Slow syncs to columns.

use std::collections::HashMap;

use super::{convert, v1};
use crate::autopsy::{Culprit, Parts};
use crate::fact::{CulpritName, SlowSync};

/// Texts that repeat, each once; the first is empty.
#[derive(Debug)]
struct Texts {
    texts: Vec<String>,
    numbers: HashMap<String, u32>,
}

impl Texts {
    fn new() -> Self {
        Self { texts: vec![String::new()], numbers: HashMap::from([(String::new(), 0)]) }
    }

    fn number(&mut self, text: &str) -> u32 {
        if let Some(number) = self.numbers.get(text) {
            return *number;
        }
        let number = self.texts.len() as u32;
        self.texts.push(text.to_owned());
        self.numbers.insert(text.to_owned(), number);
        number
    }
}

/// A thread's name up to its first zero; what is not text is replaced.
pub fn comm(bytes: &[u8; 16]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

/// All rows, with their members.
pub fn columns(rows: &[(u32, SlowSync)]) -> v1::Autopsies {
    let facts = || rows.iter().map(|(_, fact)| fact);
    let part = |of: fn(&Parts) -> u64| facts().map(|fact| of(&fact.autopsy.parts)).collect();
    let mut columns = v1::Autopsies {
        member: rows.iter().map(|(member, _)| *member).collect(),
        file_class: facts().map(|fact| fact.class as i32).collect(),
        start_mono_ns_delta: convert::delta_i64(facts().map(|fact| fact.start_mono_ns as i64)),
        latency_ns: facts().map(|fact| fact.latency_ns).collect(),
        thread_id: facts().map(|fact| fact.thread_id).collect(),
        inode: facts().map(|fact| fact.inode).collect(),
        device: facts().map(|fact| fact.device).collect(),
        threshold_ns: facts().map(|fact| fact.threshold_ns).collect(),
        on_cpu_ns: part(|parts| parts.on_cpu_ns),
        run_queue_ns: part(|parts| parts.run_queue_ns),
        journal_ns: part(|parts| parts.journal_ns),
        queue_ns: part(|parts| parts.queue_ns),
        device_ns: part(|parts| parts.device_ns),
        flush_ns: part(|parts| parts.flush_ns),
        throttle_ns: part(|parts| parts.throttle_ns),
        steal_ns: part(|parts| parts.steal_ns),
        unexplained_ns: part(|parts| parts.unexplained_ns),
        journal_device_ns: facts().map(|fact| fact.autopsy.journal.device_ns).collect(),
        journal_queue_ns: facts().map(|fact| fact.autopsy.journal.queue_ns).collect(),
        journal_flush_ns: facts().map(|fact| fact.autopsy.journal.flush_ns).collect(),
        cpu_quota_ns: facts().map(|fact| fact.autopsy.cpu_quota_ns).collect(),
        wait_ns: facts().map(|fact| fact.autopsy.wait_ns).collect(),
        gaps: facts().map(|fact| fact.autopsy.gaps.bits()).collect(),
        culprit_len: facts().map(|fact| fact.autopsy.culprits.len() as u32).collect(),
        ..v1::Autopsies::default()
    };
    let mut texts = Texts::new();
    let nobody = CulpritName::default();
    for fact in facts() {
        for (place, culprit) in fact.autopsy.culprits.iter().enumerate() {
            push(&mut columns, &mut texts, culprit, fact.names.get(place).unwrap_or(&nobody));
        }
    }
    columns.text = texts.texts;
    columns
}

fn push(columns: &mut v1::Autopsies, texts: &mut Texts, culprit: &Culprit, name: &CulpritName) {
    columns.culprit_origin.push(culprit.origin as i32);
    columns.culprit_certainty.push(culprit.certainty as i32);
    columns.culprit_process_id.push(culprit.process_id);
    columns.culprit_comm.push(texts.number(&comm(&culprit.comm)));
    columns.culprit_process.push(texts.number(&name.process));
    columns.culprit_cgroup.push(texts.number(&name.placement.cgroup));
    columns.culprit_container_id.push(texts.number(&name.placement.container_id));
    columns.culprit_pod_uid.push(texts.number(&name.placement.pod_uid));
    columns.culprit_inode.push(culprit.inode);
    columns.culprit_device.push(culprit.device);
    columns.culprit_requests.push(culprit.requests);
    columns.culprit_bytes.push(culprit.bytes);
    columns.culprit_syncs.push(culprit.syncs);
    columns.culprit_wait_ns.push(culprit.wait_ns);
}
