//! Slow syncs that were examined.

use etcdmon_proto::convert::{CodingError, undelta_i64};
use etcdmon_proto::v1;

use super::common::{Checker, Rows, class_name};
use super::{DecodeError, message};
use crate::store::block::{Column, Dictionary, Value};
use crate::store::table::Table;

const SECTION: &str = "autopsy";

/// Most culprits of one sync; agents name fewer.
const MAX_CULPRITS: u32 = 64;

/// Names of the bits of `gaps`, from the lowest.
const GAPS: [&str; 3] = ["requests", "commits", "overwritten"];

/// Rows of `autopsies`.
pub fn autopsies(rows: &mut Rows, section: &v1::Section) -> Result<(), DecodeError> {
    let check = Checker::new(SECTION, section);
    let columns: v1::Autopsies = message(SECTION, &section.payload)?;
    let start = undelta_i64(check.column("start_mono_ns_delta", &columns.start_mono_ns_delta)?);
    let at = rows.timeline.walls(SECTION, "start_mono_ns_delta", &start)?;
    let (mut common, mut pid) = (rows.members.columns(check.rows), Vec::with_capacity(check.rows));
    for (member, at) in check.column("member", &columns.member)?.iter().zip(at) {
        let member = rows.members.at(SECTION, *member)?;
        common.push(member, at);
        pid.push(member.pid);
    }
    check_sums(check, &columns)?;
    let numbers = |name, values: &[u64]| Ok(Column::U64(check.column(name, values)?.to_vec()));
    let rest = vec![
        Column::Text(check.names("file_class", &columns.file_class, class_name)?),
        Column::Same(Value::Uuid(rows.boot), check.rows),
        // `walls` refused negative ones.
        Column::U64(start.iter().map(|start| start.unsigned_abs()).collect()),
        numbers("latency_ns", &columns.latency_ns)?,
        Column::U32(pid),
        Column::U32(check.column("thread_id", &columns.thread_id)?.to_vec()),
        numbers("inode", &columns.inode)?,
        Column::U32(check.column("device", &columns.device)?.to_vec()),
        numbers("threshold_ns", &columns.threshold_ns)?,
        numbers("on_cpu_ns", &columns.on_cpu_ns)?,
        numbers("run_queue_ns", &columns.run_queue_ns)?,
        numbers("journal_ns", &columns.journal_ns)?,
        numbers("queue_ns", &columns.queue_ns)?,
        numbers("device_ns", &columns.device_ns)?,
        numbers("flush_ns", &columns.flush_ns)?,
        numbers("throttle_ns", &columns.throttle_ns)?,
        numbers("steal_ns", &columns.steal_ns)?,
        numbers("unexplained_ns", &columns.unexplained_ns)?,
        numbers("journal_device_ns", &columns.journal_device_ns)?,
        numbers("journal_queue_ns", &columns.journal_queue_ns)?,
        numbers("journal_flush_ns", &columns.journal_flush_ns)?,
        numbers("cpu_quota_ns", &columns.cpu_quota_ns)?,
        numbers("wait_ns", &columns.wait_ns)?,
        Column::Text(gaps(check.column("gaps", &columns.gaps)?)),
        Column::Long(culprits(check, &columns)?),
    ];
    rows.add(Table::Autopsies, common, rest);
    Ok(())
}

/// The parts must add up to the latency: what does not is no autopsy.
fn check_sums(check: Checker, columns: &v1::Autopsies) -> Result<(), DecodeError> {
    let parts = [
        check.column("on_cpu_ns", &columns.on_cpu_ns)?,
        check.column("run_queue_ns", &columns.run_queue_ns)?,
        check.column("journal_ns", &columns.journal_ns)?,
        check.column("queue_ns", &columns.queue_ns)?,
        check.column("device_ns", &columns.device_ns)?,
        check.column("flush_ns", &columns.flush_ns)?,
        check.column("throttle_ns", &columns.throttle_ns)?,
        check.column("steal_ns", &columns.steal_ns)?,
        check.column("unexplained_ns", &columns.unexplained_ns)?,
    ];
    for (row, latency) in check.column("latency_ns", &columns.latency_ns)?.iter().enumerate() {
        let sum: u128 = parts.iter().map(|part| u128::from(part[row])).sum();
        if sum != u128::from(*latency) {
            return Err(check.bad(CodingError::OutOfRange { column: "unexplained_ns", row }));
        }
    }
    Ok(())
}

/// The names of the bits that are set, with commas; bits of a later version are `unknown`.
fn gaps(values: &[u32]) -> Dictionary {
    let mut texts = Dictionary::default();
    for bits in values {
        let known = GAPS.iter().enumerate().filter(|(bit, _)| bits >> bit & 1 == 1).map(|(_, name)| *name);
        let unknown = (bits >> GAPS.len() != 0).then_some("unknown");
        texts.push(&known.chain(unknown).collect::<Vec<_>>().join(","));
    }
    texts
}

/// Each row's culprits as a JSON array.
fn culprits(check: Checker, columns: &v1::Autopsies) -> Result<Vec<String>, DecodeError> {
    let lengths = check.column("culprit_len", &columns.culprit_len)?;
    if let Some(row) = lengths.iter().position(|length| *length > MAX_CULPRITS) {
        return Err(check.bad(CodingError::OutOfRange { column: "culprit_len", row }));
    }
    let total: usize = lengths.iter().map(|length| *length as usize).sum();
    let all = Checker { rows: total, ..check };
    let origin = all.column("culprit_origin", &columns.culprit_origin)?;
    let certainty = all.column("culprit_certainty", &columns.culprit_certainty)?;
    let process_id = all.column("culprit_process_id", &columns.culprit_process_id)?;
    let comm = Texts::new(all, "culprit_comm", &columns.culprit_comm, &columns.text)?;
    let process = Texts::new(all, "culprit_process", &columns.culprit_process, &columns.text)?;
    let cgroup = Texts::new(all, "culprit_cgroup", &columns.culprit_cgroup, &columns.text)?;
    let container = Texts::new(all, "culprit_container_id", &columns.culprit_container_id, &columns.text)?;
    let pod = Texts::new(all, "culprit_pod_uid", &columns.culprit_pod_uid, &columns.text)?;
    let inode = all.column("culprit_inode", &columns.culprit_inode)?;
    let device = all.column("culprit_device", &columns.culprit_device)?;
    let requests = all.column("culprit_requests", &columns.culprit_requests)?;
    let bytes = all.column("culprit_bytes", &columns.culprit_bytes)?;
    let syncs = all.column("culprit_syncs", &columns.culprit_syncs)?;
    let wait_ns = all.column("culprit_wait_ns", &columns.culprit_wait_ns)?;
    let one = |place: usize| {
        let origin = v1::CulpritOrigin::try_from(origin[place]).map_or("unknown", v1::CulpritOrigin::name);
        let certainty = v1::Certainty::try_from(certainty[place]).map_or("unknown", v1::Certainty::name);
        serde_json::json!({
            "origin": origin, "certainty": certainty, "process_id": process_id[place],
            "comm": comm.at(place), "process": process.at(place), "cgroup": cgroup.at(place),
            "container_id": container.at(place), "pod_uid": pod.at(place),
            "inode": inode[place], "device": device[place], "requests": requests[place],
            "bytes": bytes[place], "syncs": syncs[place], "wait_ns": wait_ns[place],
        })
    };
    let mut begin = 0;
    let row = |length: &u32| {
        let end = begin + *length as usize;
        let culprits = (begin..end).map(one).collect();
        begin = end;
        serde_json::Value::Array(culprits).to_string()
    };
    Ok(lengths.iter().map(row).collect())
}

/// A column of positions in the section's texts.
struct Texts<'a> {
    numbers: &'a [u32],
    texts: &'a [String],
}

impl<'a> Texts<'a> {
    fn new(
        all: Checker,
        column: &'static str,
        numbers: &'a [u32],
        texts: &'a [String],
    ) -> Result<Self, DecodeError> {
        let numbers = all.column(column, numbers)?;
        match numbers.iter().find(|number| **number as usize >= texts.len()) {
            Some(index) => Err(DecodeError::Reference { section: SECTION, column, index: *index }),
            None => Ok(Self { numbers, texts }),
        }
    }

    fn at(&self, place: usize) -> &str {
        &self.texts[self.numbers[place] as usize]
    }
}

#[cfg(test)]
mod tests;
