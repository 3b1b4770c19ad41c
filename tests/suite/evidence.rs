//! Evidence: a delay of the disk shows in the requests of those who wait for it, in the right part.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use etcdmon_agent::autopsy::evidence::{Operation, Request};
use etcdmon_agent::ebpf::{Position, ProbeConfig, ProbeError, Probes, disks_of};
use etcdmon_tests::disk::{Disk, Medium};
use etcdmon_tests::suite::{run, skip_without_root};

/// What the disk takes longer for each write, and for each flush.
const WRITE_DELAY: Duration = Duration::from_millis(20);
const FLUSH_DELAY: Duration = Duration::from_millis(30);

/// Writes and syncs of a kind.
const TIMES: u64 = 10;

const BLOCK: usize = 4_096;

#[repr(align(4096))]
struct Aligned([u8; BLOCK]);

/// Overwrites blocks, around the page cache.
fn write(path: &Path) -> Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .custom_flags(libc::O_DIRECT)
        .open(path)?;
    let block = Aligned([b'z'; BLOCK]);
    for at in 0..TIMES {
        file.write_all_at(&block.0, at * 2 * BLOCK as u64)?;
    }
    Ok(file)
}

/// This process's own requests of a kind since the last call.
fn own(probes: &Probes, position: &mut Position, operation: Operation) -> Vec<Request> {
    let mut found = Vec::new();
    *position = probes.requests(*position, &mut found);
    found.retain(|request| request.process_id == std::process::id() && request.operation == operation);
    found
}

/// Time on the device of the request that was fastest: the one that nothing else on this machine held up.
fn fastest(requests: &[Request]) -> Duration {
    let on_device = requests.iter().map(|request| request.completed_ns - request.issued_ns);
    Duration::from_nanos(on_device.min().unwrap_or_default())
}

/// S3: a programmed delay of the disk's writes and flushes is found in the device's part of those requests, within 10 %.
#[test]
fn a_delay_of_the_disk_is_on_the_device_of_the_right_requests() {
    if skip_without_root("probes and a disk of its own") {
        return;
    }
    run(async |place| {
        let probes = match Probes::load(&ProbeConfig { offsets_program: None, ..ProbeConfig::default() }) {
            Ok(probes) => probes,
            Err(error @ (ProbeError::ObjectMissing | ProbeError::PidNamespace)) => {
                println!("skipped: {error}: {}", error.remedy());
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        let disk = Disk::new(place.path(), Medium::Ext4, true)?;
        let delays = disk.delays().context("a slow disk has delays")?;
        let path = disk.path().join("file");
        // With the blocks there, and synced, nothing but data is written, and a sync is nothing but a flush.
        write(&path)?.sync_all()?;
        let process = std::process::id();
        probes.watch_devices(&disks_of(process, disk.path())?)?;
        probes.add_target(process, &[disk.path().to_owned()])?;
        let mut position = Position::default();

        let file = write(&path)?;
        file.sync_data()?;
        let mut of_kind = |operation| own(&probes, &mut position, operation);
        let calm = of_kind(Operation::Write);
        ensure!(calm.len() as u64 == TIMES, "{calm:?}");
        ensure!(fastest(&calm) < WRITE_DELAY / 4, "{:?} without delay", fastest(&calm));

        delays.set_write(WRITE_DELAY);
        write(&path)?;
        delays.clear();
        let slow = of_kind(Operation::Write);
        ensure!(slow.len() as u64 == TIMES, "{slow:?}");
        let found = fastest(&slow);
        println!("{WRITE_DELAY:?} of each write: {found:?} on the device");
        ensure!(found >= WRITE_DELAY && found <= WRITE_DELAY.mul_f64(1.1), "{found:?}");
        // They wait for nothing else: one after the other, each goes to the device at once.
        let queued = slow.iter().map(|request| request.issued_ns - request.queued_ns).min();
        ensure!(queued.is_some_and(|queued| queued < 2_000_000), "{queued:?} ns queued");

        delays.set_syncs(&[FLUSH_DELAY]);
        (0..TIMES).try_for_each(|_| file.sync_data())?;
        delays.clear();
        let flushes = of_kind(Operation::Flush);
        ensure!(flushes.len() as u64 == TIMES, "{flushes:?}");
        let found = fastest(&flushes);
        println!("{FLUSH_DELAY:?} of each flush: {found:?} on the device");
        ensure!(found >= FLUSH_DELAY && found <= FLUSH_DELAY.mul_f64(1.1), "{found:?}");
        // What the kernel did not run was for other disks: all of ours are there.
        let lost: Vec<_> = probes.losses().into_iter().filter(|loss| loss.reason != "not_run").collect();
        ensure!(lost.is_empty(), "{lost:?}");
        Ok(())
    });
}
