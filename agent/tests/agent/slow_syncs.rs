//! Slow syncs of a real etcd beside a neighbour on the same disk, from the kernel to the wire. S3.

use std::fs::OpenOptions;
use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use etcdmon_proto::v1::{self, SectionKind};

use crate::support::agent::Agent;
use crate::support::aggregator::{Aggregator, sections};
use crate::support::etcd::{Etcd, VERSIONS};
use crate::support::{alone, is_root, wait_for};

const LIMIT: Duration = Duration::from_secs(40);

/// Threads of this process that write and sync until they are told to end.
struct Neighbour {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Neighbour {
    fn start(directory: &Path) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let thread = |number: u32| {
            let (path, stop) = (directory.join(format!("neighbour{number}")), Arc::clone(&stop));
            std::thread::spawn(move || {
                let mut file = OpenOptions::new().create(true).write(true).truncate(true).open(path).unwrap();
                let block = vec![0x5a; 1 << 20];
                // So much at once that the queue of a fast disk is long as well.
                while !stop.load(Ordering::Relaxed) {
                    file.seek(SeekFrom::Start(0)).unwrap();
                    (0..32).for_each(|_| file.write_all(&block).unwrap());
                    file.sync_data().unwrap();
                }
            })
        };
        let threads = (0..4).map(thread).collect();
        Self { stop, threads }
    }
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.drain(..).for_each(|thread| thread.join().unwrap());
    }
}

fn parts(columns: &v1::Autopsies, row: usize) -> [u64; 9] {
    [
        columns.on_cpu_ns[row],
        columns.run_queue_ns[row],
        columns.journal_ns[row],
        columns.queue_ns[row],
        columns.device_ns[row],
        columns.flush_ns[row],
        columns.throttle_ns[row],
        columns.steal_ns[row],
        columns.unexplained_ns[row],
    ]
}

#[test]
fn a_neighbour_on_the_disk_is_named_with_its_share_and_the_parts_add_up() {
    if !is_root("a_neighbour_on_the_disk_is_named_with_its_share_and_the_parts_add_up") {
        return;
    }
    let _alone = alone();
    let directory = tempfile::tempdir().unwrap();
    let Some(etcd) = Etcd::start(VERSIONS[2], directory.path()) else { return };
    let server = Aggregator::start();
    let agent = Agent::start(directory.path(), server.address, &[]);
    wait_for("agent watches etcd", LIMIT, || agent.log().contains("watching syncs").then_some(()));
    let neighbour = Neighbour::start(directory.path());
    let autopsies = || sections::<v1::Autopsies>(&server.aggregator.batches(), SectionKind::Autopsy);
    let rows = wait_for("slow syncs are examined", 2 * LIMIT, || {
        etcd.put(20);
        let waits = |columns: &v1::Autopsies| {
            let rows = columns.wait_ns.iter().zip(&columns.latency_ns);
            rows.filter(|(wait_ns, latency_ns)| **wait_ns > **latency_ns / 2).count()
        };
        let found: usize = autopsies().iter().map(waits).sum();
        (found >= 3).then(|| autopsies().iter().map(|columns| columns.latency_ns.len()).sum::<usize>())
    });
    drop(neighbour);
    let (mut sums, mut latency_ns, mut waited, mut named) = ([0_u64; 9], 0, 0, 0);
    for columns in autopsies() {
        let mut begin = 0;
        for row in 0..columns.latency_ns.len() {
            let parts = parts(&columns, row);
            assert_eq!(parts.iter().sum::<u64>(), columns.latency_ns[row]);
            assert_eq!(columns.gaps[row] & 1, 0, "requests are seen");
            latency_ns += columns.latency_ns[row];
            sums.iter_mut().zip(parts).for_each(|(sum, part)| *sum += part);
            let culprits = columns.culprit_len[row] as usize;
            if columns.wait_ns[row] > columns.latency_ns[row] / 2 {
                waited += 1;
                // Others may use the disk as well: being among the named is all that is certain here.
                let named_here = &columns.culprit_process_id[begin..begin + culprits];
                named += u32::from(named_here.contains(&std::process::id()));
                let wait_ns: u64 = columns.culprit_wait_ns[begin..begin + culprits].iter().sum();
                assert!(wait_ns <= columns.wait_ns[row], "shares are of one whole");
            }
            begin += culprits;
        }
    }
    let shares = sums.map(|sum| sum * 100 / latency_ns);
    println!(
        "{rows} slow syncs; percent of cpu, run queue, journal, queue, device, flush, throttle, steal, unexplained: {shares:?}"
    );
    println!("{waited} waited for the disk, {named} of them with this process among the culprits");
    assert!(waited > 0 && named * 10 >= waited * 8, "{named} of {waited}");
    assert!(agent.stop().success());
}
