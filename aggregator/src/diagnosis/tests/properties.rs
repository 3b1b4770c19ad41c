//! Whatever the counters say, nothing panics, shares are shares, and culprits are named only where there can be one.

use etcdmon_proto::v1;
use proptest::prelude::*;

use super::scene::*;

fn number() -> impl Strategy<Value = u64> {
    prop_oneof![Just(0), 0..100_u64, 0..5_000_000_000_u64, Just(u64::MAX), Just(u64::MAX - 1), any::<u64>()]
}

fn maybe() -> impl Strategy<Value = Option<u64>> {
    prop_oneof![2 => number().prop_map(Some), 1 => Just(None)]
}

fn parts() -> impl Strategy<Value = v1::SlowSyncParts> {
    proptest::collection::vec(number(), 13).prop_map(|n| v1::SlowSyncParts {
        on_cpu_ns: n[0],
        run_queue_ns: n[1],
        journal_ns: n[2],
        queue_ns: n[3],
        device_ns: n[4],
        flush_ns: n[5],
        throttle_ns: n[6],
        steal_ns: n[7],
        unexplained_ns: n[8],
        journal_device_ns: n[9],
        journal_queue_ns: n[10],
        journal_flush_ns: n[11],
        cpu_quota_ns: n[12],
    })
}

fn culprit() -> impl Strategy<Value = v1::LiveCulprit> {
    (
        0..7_i32,
        prop_oneof![Just(0_u32), 498..503_u32],
        "[a-k/]{0,6}",
        "[/a-c]{0,3}",
        number(),
        number(),
        0..5_i32,
    )
        .prop_map(|(origin, process_id, comm, cgroup, wait, bytes, certainty)| v1::LiveCulprit {
            origin,
            process_id,
            comm,
            cgroup,
            syncs_total: wait % 17,
            wait_ns_total: wait,
            bytes_total: bytes,
            certainty,
            ..Default::default()
        })
}

fn culprits() -> impl Strategy<Value = Vec<v1::LiveCulprit>> {
    proptest::collection::vec(culprit(), 0..5)
}

fn slow() -> impl Strategy<Value = v1::LiveSlowSyncs> {
    (number(), number(), number(), number(), proptest::option::of(parts()), culprits()).prop_map(
        |(examined, left_out, latency, wait, parts_total, culprits)| v1::LiveSlowSyncs {
            examined_total: examined,
            left_out_total: left_out,
            latency_ns_total: latency,
            wait_ns_total: wait,
            parts_total,
            culprits,
            ..Default::default()
        },
    )
}

fn vitals() -> impl Strategy<Value = v1::LiveVitals> {
    let counters = proptest::collection::vec(maybe(), 12);
    let signals = proptest::collection::vec((0..70_u32, any::<i64>(), 0..4_u32), 0..4);
    let users = proptest::collection::vec((490..510_u32, number()), 0..4);
    (counters, signals, users, culprits(), culprits(), any::<u32>(), any::<i32>(), any::<Option<bool>>())
        .prop_map(|(n, signals, users, journal_users, disk_fillers, node_cpus, last_errno, io_limited)| {
            v1::LiveVitals {
                on_cpu_ns_total: n[0],
                run_delay_ns_total: n[1],
                cpu_quota_millicpus: n[2],
                cpu_throttled_ns_total: n[3],
                stopped_ns_total: n[4],
                steal_ns_total: n[5],
                node_idle_ns_total: n[6],
                disk_free_bytes: n[7],
                disk_size_bytes: n[8],
                io_errors_total: n[9],
                sync_errors_total: n[10],
                disk_grown_by_others_bytes_per_s: n[11],
                signals: signals
                    .into_iter()
                    .map(|(signal, wall_ns, sender_process_id)| v1::LiveSignal {
                        signal,
                        wall_ns,
                        sender_process_id,
                        ..Default::default()
                    })
                    .collect(),
                cpu_users: users
                    .into_iter()
                    .map(|(process_id, on_cpu_ns)| v1::LiveCpuUser {
                        process_id,
                        on_cpu_ns,
                        ..Default::default()
                    })
                    .collect(),
                journal_users,
                disk_fillers,
                node_cpus,
                last_errno,
                io_limited,
                ..Default::default()
            }
        })
}

#[derive(Debug, Clone)]
struct Message {
    wal: Vec<(u64, u64)>,
    slow: Option<v1::LiveSlowSyncs>,
    vitals: Option<v1::LiveVitals>,
    pid: u32,
    epoch: u8,
    restart: bool,
}

fn message() -> impl Strategy<Value = Message> {
    (
        proptest::collection::vec((0..90_000_u64, 0..60_u64), 0..4),
        proptest::option::of(slow()),
        proptest::option::of(vitals()),
        prop_oneof![9 => Just(ETCD), 1 => Just(501_u32)],
        prop_oneof![9 => Just(1_u8), 1 => Just(2_u8)],
        prop::bool::weighted(0.05),
    )
        .prop_map(|(wal, slow, vitals, pid, epoch, restart)| Message {
            wal,
            slow,
            vitals,
            pid,
            epoch,
            restart,
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn absurd_messages_do_no_harm(messages in proptest::collection::vec(message(), 1..25)) {
        let mut run = Run::default();
        for message in messages {
            (run.pid, run.epoch) = (message.pid, message.epoch);
            let mut live = run.live(&Second { wal: message.wal, ..calm() });
            (live.slow_syncs, live.vitals) = (message.slow, message.vitals);
            if message.restart {
                run.restart();
            }
            run.send(live);
            let shown = run.shown();
            for view in &shown {
                prop_assert!((0.0..=1.0).contains(&view.share), "{view:?}");
                let culprits: Vec<_> = view.culprit.iter().chain(&view.culprits).collect();
                prop_assert!(culprits.iter().all(|one| (0.0..=1.0).contains(&one.share)), "{view:?}");
                prop_assert!(culprits.is_empty() || view.cause.has_culprit(), "{view:?}");
                prop_assert!(view.ruled_out.iter().all(|out| out.cause != view.cause));
            }
            let mut open: Vec<_> = shown.iter().filter(|view| view.is_open()).map(|view| view.cause).collect();
            let count = open.len();
            open.sort_unstable();
            open.dedup();
            prop_assert_eq!(open.len(), count, "one of a cause at a time");
        }
    }
}
