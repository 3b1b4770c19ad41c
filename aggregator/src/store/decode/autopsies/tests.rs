use etcdmon_proto::convert::{delta_i64, delta_u64};
use proptest::prelude::*;
use prost::Message;
use uuid::Uuid;

use super::super::{BatchId, ClusterNames, Decoded, decode};
use super::*;

struct Names;

impl ClusterNames for Names {
    fn cluster_uuid(&self, etcd_cluster_id: u64) -> Uuid {
        Uuid::from_u64_pair(1, etcd_cluster_id)
    }
}

const SECOND: i64 = 1_795_255_200;

/// Two rows, of which the second has two culprits.
pub fn columns() -> v1::Autopsies {
    let each = |values: [u64; 2]| values.to_vec();
    v1::Autopsies {
        member: vec![0, 1],
        file_class: vec![v1::FileClass::Wal as i32, v1::FileClass::Backend as i32],
        start_mono_ns_delta: delta_i64([5_000, 9_000]),
        latency_ns: each([45, 10]),
        thread_id: vec![41, 42],
        inode: each([7, 8]),
        device: vec![254 << 20 | 1; 2],
        threshold_ns: each([40, 9]),
        on_cpu_ns: each([1, 0]),
        run_queue_ns: each([2, 0]),
        journal_ns: each([3, 0]),
        queue_ns: each([4, 0]),
        device_ns: each([5, 10]),
        flush_ns: each([6, 0]),
        throttle_ns: each([7, 0]),
        steal_ns: each([8, 0]),
        unexplained_ns: each([9, 0]),
        journal_device_ns: each([1, 0]),
        journal_queue_ns: each([1, 0]),
        journal_flush_ns: each([1, 0]),
        cpu_quota_ns: each([1, 0]),
        wait_ns: each([18, 10]),
        gaps: vec![0, 0b1101],
        culprit_len: vec![0, 2],
        culprit_origin: vec![v1::CulpritOrigin::Process as i32, 99],
        culprit_certainty: vec![v1::Certainty::High as i32, v1::Certainty::Low as i32],
        culprit_process_id: vec![600, 0],
        culprit_comm: vec![1, 2],
        culprit_process: vec![3, 0],
        culprit_cgroup: vec![4, 0],
        culprit_container_id: vec![0, 0],
        culprit_pod_uid: vec![0, 0],
        culprit_inode: each([0, 77]),
        culprit_device: vec![254 << 20; 2],
        culprit_requests: each([3, 1]),
        culprit_bytes: each([12_288, 4_096]),
        culprit_syncs: each([1, 0]),
        culprit_wait_ns: each([6, 2]),
        text: ["", "fio", "kworker/u8:1", "fio (/usr/bin/fio)", "/lab"].map(str::to_owned).to_vec(),
    }
}

fn run(rows: u32, columns: &v1::Autopsies) -> Result<Decoded, DecodeError> {
    let base = v1::TimeBases {
        mono_ns_delta: delta_u64("", &[0]).unwrap(),
        wall_minus_mono_ns_delta: vec![SECOND * 1_000_000_000],
    };
    let section = |kind: v1::SectionKind, rows, payload| v1::Section { kind: kind.into(), rows, payload };
    let member = |id| v1::Member { cluster_id: 0xc1, member_id: id, ..v1::Member::default() };
    let batch = v1::Batch {
        agent_id: vec![7; 16],
        boot_id: vec![1; 16],
        members: vec![member(1), member(2)],
        sections: vec![
            section(v1::SectionKind::TimeBase, 1, base.encode_to_vec()),
            section(v1::SectionKind::Autopsy, rows, columns.encode_to_vec()),
        ],
    };
    let agent = Uuid::from_bytes([7; 16]);
    decode(BatchId { agent, epoch: Uuid::nil(), sequence: 1 }, &batch.encode_to_vec(), &Names)
}

#[test]
fn rows_have_their_parts_and_their_culprits() {
    let decoded = run(2, &columns()).unwrap();
    let block = &decoded.blocks[0];
    assert_eq!((block.table, block.rows()), (Table::Autopsies, 2));
    assert_eq!(block.times(), [SECOND * 1_000_000_000 + 5_000, SECOND * 1_000_000_000 + 9_000]);
    let at = |name: &str| {
        let place = Table::Autopsies.columns().iter().position(|(known, _)| *known == name).unwrap();
        &block.columns()[place]
    };
    assert_eq!(at("device_ns"), &Column::U64(vec![5, 10]));
    assert_eq!(at("unexplained_ns"), &Column::U64(vec![9, 0]));
    let Column::Text(gaps) = at("gaps") else { panic!("no text") };
    assert_eq!([gaps.text(0), gaps.text(1)], ["", "requests,overwritten,unknown"]);
    let Column::Long(culprits) = at("culprits") else { panic!("no text") };
    assert_eq!(culprits[0], "[]");
    let culprits: serde_json::Value = serde_json::from_str(&culprits[1]).unwrap();
    let first = serde_json::json!({
        "origin": "process", "certainty": "high", "process_id": 600, "comm": "fio",
        "process": "fio (/usr/bin/fio)", "cgroup": "/lab", "container_id": "", "pod_uid": "", "inode": 0,
        "device": 254 << 20, "requests": 3, "bytes": 12_288, "syncs": 1, "wait_ns": 6,
    });
    assert_eq!(culprits[0], first);
    assert_eq!((&culprits[1]["origin"], &culprits[1]["inode"]), (&"unknown".into(), &77.into()));
    assert_eq!(culprits.as_array().unwrap().len(), 2);
}

/// Takes the last entry off a column, if it is one.
type Change = fn(&mut v1::Autopsies);

#[test]
fn every_column_is_checked() {
    macro_rules! shortened {
        ($($column:ident),* $(,)?) => {
            [$((stringify!($column), (|it| _ = it.$column.pop()) as Change)),*]
        };
    }
    let all = shortened!(
        member,
        file_class,
        start_mono_ns_delta,
        latency_ns,
        thread_id,
        inode,
        device,
        threshold_ns,
        on_cpu_ns,
        run_queue_ns,
        journal_ns,
        queue_ns,
        device_ns,
        flush_ns,
        throttle_ns,
        steal_ns,
        unexplained_ns,
        journal_device_ns,
        journal_queue_ns,
        journal_flush_ns,
        cpu_quota_ns,
        wait_ns,
        gaps,
        culprit_len,
        culprit_origin,
        culprit_certainty,
        culprit_process_id,
        culprit_comm,
        culprit_process,
        culprit_cgroup,
        culprit_container_id,
        culprit_pod_uid,
        culprit_inode,
        culprit_device,
        culprit_requests,
        culprit_bytes,
        culprit_syncs,
        culprit_wait_ns,
    );
    for (name, shorten) in all {
        let mut columns = columns();
        shorten(&mut columns);
        let error = run(2, &columns).unwrap_err().to_string();
        assert_eq!(error, format!("section autopsy: column {name} has 1 rows, expected 2"));
    }
}

#[test]
fn what_refers_to_nothing_or_does_not_add_up_is_refused() {
    let cases: [(Change, &str); 7] = [
        (|it| it.member[1] = 2, "section autopsy: column member refers to 2, which does not exist"),
        (
            |it| it.culprit_comm[0] = 5,
            "section autopsy: column culprit_comm refers to 5, which does not exist",
        ),
        (|it| it.text.clear(), "section autopsy: column culprit_comm refers to 1, which does not exist"),
        (|it| it.device_ns[1] = 11, "section autopsy: column unexplained_ns leaves its range at row 1"),
        (
            |it| (it.device_ns[0], it.flush_ns[0]) = (u64::MAX, 12),
            "section autopsy: column unexplained_ns leaves its range at row 0",
        ),
        (|it| it.culprit_len = vec![0, 65], "section autopsy: column culprit_len leaves its range at row 1"),
        (|it| it.culprit_len = vec![1, 2], "section autopsy: column culprit_origin has 2 rows, expected 3"),
    ];
    for (change, expected) in cases {
        let mut columns = columns();
        change(&mut columns);
        assert_eq!(run(2, &columns).unwrap_err().to_string(), expected);
    }
}

proptest! {
    /// Well-formed messages with columns of any length and content.
    #[test]
    fn no_columns_panic(
        rows in 0u32..4,
        lengths in prop::collection::vec(0u32..4, 0..4),
        small in prop::collection::vec(0u32..4, 0..5),
        wide in prop::collection::vec(any::<u64>(), 0..5),
        signed in prop::collection::vec(any::<i64>(), 0..5),
        text in prop::collection::vec(".{0,5}", 0..5),
    ) {
        let enums: Vec<i32> = small.iter().map(|value| *value as i32).collect();
        let zeros = vec![0; rows as usize];
        let columns = v1::Autopsies {
            member: vec![0; rows as usize],
            file_class: vec![1; rows as usize],
            start_mono_ns_delta: if signed.is_empty() { vec![1; rows as usize] } else { signed },
            latency_ns: zeros.clone(), thread_id: vec![0; rows as usize], inode: zeros.clone(),
            device: vec![0; rows as usize], threshold_ns: zeros.clone(), on_cpu_ns: zeros.clone(),
            run_queue_ns: zeros.clone(), journal_ns: zeros.clone(), queue_ns: zeros.clone(),
            device_ns: zeros.clone(), flush_ns: zeros.clone(), throttle_ns: zeros.clone(),
            steal_ns: zeros.clone(), unexplained_ns: zeros.clone(), journal_device_ns: zeros.clone(),
            journal_queue_ns: zeros.clone(), journal_flush_ns: zeros.clone(), cpu_quota_ns: zeros.clone(),
            wait_ns: zeros, gaps: vec![u32::MAX; rows as usize], culprit_len: lengths,
            culprit_origin: enums.clone(), culprit_certainty: enums, culprit_process_id: small.clone(),
            culprit_comm: small.clone(), culprit_process: small.clone(), culprit_cgroup: small.clone(),
            culprit_container_id: small.clone(), culprit_pod_uid: small.clone(), culprit_inode: wide.clone(),
            culprit_device: small.clone(), culprit_requests: wide.clone(), culprit_bytes: wide.clone(),
            culprit_syncs: wide.clone(), culprit_wait_ns: wide, text,
        };
        let _ = run(rows, &columns);
    }
}
