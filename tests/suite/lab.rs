//! The lab itself: what it says it injects and counts must be so, before anything is judged by it.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use etcdmon_tests::disk::{Disk, Medium};
use etcdmon_tests::etcd::Cluster;
use etcdmon_tests::fault::Stopped;
use etcdmon_tests::load::{Load, Plan, official_benchmark};
use etcdmon_tests::metrics::{WAL_FSYNC, shares_between};
use etcdmon_tests::oracle::{SyncCount, SyncSeries};
use etcdmon_tests::place::PREFIX;
use etcdmon_tests::process::Process;
use etcdmon_tests::receiver::{Behaviour, Receiver};
use etcdmon_tests::suite::{run, skip_without_root};
use etcdmon_tests::{process, tools, wait};

/// Wall time of one small write with fdatasync.
fn write_and_sync(directory: &Path) -> Result<Duration> {
    use std::io::Write;
    let mut file = std::fs::File::create(directory.join("probe"))?;
    file.write_all(&[1; 4096])?;
    let begin = Instant::now();
    file.sync_data()?;
    Ok(begin.elapsed())
}

#[test]
fn a_programmed_delay_slows_fdatasync_by_itself_on_ext4_and_xfs() {
    if skip_without_root("loop devices") {
        return;
    }
    run(async |place| {
        for (name, medium) in [("ext4", Medium::Ext4), ("xfs", Medium::Xfs)] {
            let disk = Disk::new(&place.directory(name)?, medium, true)?;
            let delays = disk.delays().expect("made slow");
            let fast = write_and_sync(disk.path())?;
            delays.set_syncs(&[Duration::from_millis(200)]);
            let slow = write_and_sync(disk.path())?;
            delays.clear();
            println!("{name}: {fast:?} without, {slow:?} with 200 ms a flush");
            ensure!(fast < Duration::from_millis(100), "{name} is slow without a delay: {fast:?}");
            ensure!(slow > Duration::from_millis(190), "{name} is fast with a delay: {slow:?}");
            ensure!(delays.slow_since().is_none(), "cleared");
        }
        Ok(())
    });
}

#[test]
fn mounts_and_loop_devices_are_gone_with_the_disk() {
    if skip_without_root("loop devices") {
        return;
    }
    run(async |place| {
        let directory = place.directory("disk")?;
        drop(Disk::new(&directory, Medium::Ext4, true)?);
        let mounts = std::fs::read_to_string("/proc/self/mounts")?;
        ensure!(!mounts.contains(&*directory.to_string_lossy()), "still mounted:\n{mounts}");
        let loops =
            process::run(Command::new(tools::system("losetup")?).args(["-l", "-n", "-O", "BACK-FILE"]))?;
        ensure!(!loops.contains(&*directory.to_string_lossy()), "still attached:\n{loops}");
        Ok(())
    });
}

/// The two oracles agree where they count the same thing, on every version: WAL syncs as etcd counts them are a part
/// of all syncs as perf counts them, and nothing moves while nothing is asked.
#[test]
fn perf_and_etcd_agree_that_nothing_happens_at_rest_and_something_under_load() {
    if skip_without_root("perf") {
        return;
    }
    if tools::benchmark().is_err() {
        println!("skipped: the official benchmark is not installed (setup builds it where Go is)");
        return;
    }
    run(async |place| {
        for version in tools::ETCD_VERSIONS {
            if tools::skip_without_etcd(version) {
                continue;
            }
            let name = format!("v{}", version.replace('.', ""));
            let cluster = Cluster::builder(&name).members(1).version(version).start(&place).await?;
            let wal = async || cluster.metrics(0).await?.count(WAL_FSYNC);
            let pid = cluster.members[0].pid()?;
            let before = wait::settled("etcd", Duration::from_secs(2), Duration::from_secs(20), wal).await?;
            let idle = SyncCount::start(pid, &place.path().join("perf-idle"))?;
            tokio::time::sleep(Duration::from_secs(1)).await;
            let idle = idle.stop()?;
            ensure!(idle == 0 && wal().await? == before, "{version}: {idle} syncs at rest");

            let perf = SyncCount::start(pid, &place.path().join("perf-load"))?;
            official_benchmark(
                &cluster.endpoints(),
                300,
                &place.path().join("benchmark.log"),
                Duration::from_secs(30),
            )
            .await?;
            tokio::time::sleep(Duration::from_secs(1)).await;
            let (perf, wal) = (perf.stop()?, wal().await? - before);
            println!("{version}: perf {perf}, of these WAL by etcd's own count {wal}");
            ensure!(wal > 0 && perf > wal, "{version}: perf {perf}, WAL {wal}");
        }
        Ok(())
    });
}

#[test]
fn a_cluster_with_tls_elects_moves_its_leader_and_survives_faults() {
    run(async |place| {
        let mut cluster = Cluster::builder("tls").tls(true).start(&place).await?;
        let load = Load::start(&cluster, &Plan::default())?;
        let leader = cluster.leader().await?;
        let other = (leader + 1) % 3;
        cluster.move_leader(other).await?;
        {
            let _stopped = Stopped::new(&cluster.members[leader])?;
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        cluster.members[other].kill();
        let next = cluster.leader().await?;
        ensure!(next != other, "a dead member leads");
        cluster.members[other].start()?;
        cluster.wait_ready().await?;
        load.pause().await?;
        let done = load.succeeded();
        tokio::time::sleep(Duration::from_millis(300)).await;
        ensure!(done > 0 && load.succeeded() == done, "a paused load must not put");
        Ok(())
    });
}

#[test]
fn the_series_of_perf_adds_up() {
    if skip_without_root("perf") {
        return;
    }
    run(async |place| {
        let cluster = Cluster::builder("series").members(1).start(&place).await?;
        let pid = cluster.members[0].pid()?;
        // What a young cluster still does must not fall between the two starts.
        wait::settled("etcd", Duration::from_secs(2), Duration::from_secs(30), async || {
            let metrics = cluster.metrics(0).await?;
            Ok((metrics.count(WAL_FSYNC)?, metrics.count("etcd_disk_backend_commit_duration_seconds")?))
        })
        .await?;
        let total = SyncCount::start(pid, &place.path().join("perf"))?;
        let series = SyncSeries::start(pid)?;
        let load = Load::start(&cluster, &Plan::default())?;
        tokio::time::sleep(Duration::from_secs(2)).await;
        load.pause().await?;
        tokio::time::sleep(Duration::from_secs(1)).await;
        let sum: u64 = series.stop()?.iter().map(|row| row.count).sum();
        let total = total.stop()?;
        ensure!(total > 0 && sum == total, "series {sum}, total {total}");
        Ok(())
    });
}

#[test]
fn the_receiver_accepts_fails_hangs_and_is_down_as_told() {
    run(async |_place| {
        let mut receiver = Receiver::start().await?;
        let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_millis(500)).build()?;
        let send = async |url: String| client.post(url).body(r#"{"alerts":[]}"#).send().await;
        ensure!(send(receiver.url()).await?.status() == 200);
        receiver.behave(Behaviour::Fail);
        ensure!(send(receiver.url()).await?.status() == 500);
        receiver.behave(Behaviour::Hang);
        ensure!(send(receiver.url()).await.is_err_and(|error| error.is_timeout()));
        receiver.behave(Behaviour::Accept);
        receiver.down();
        ensure!(send(receiver.url()).await.is_err_and(|error| error.is_connect()));
        receiver.up().await?;
        ensure!(send(receiver.url()).await?.status() == 200);
        ensure!(receiver.deliveries().len() == 2 && receiver.refused() == 1);
        Ok(())
    });
}

/// A throttle and a limit are accepted by the kernel and lifted again.
#[test]
fn limits_of_cgroups_take_hold() {
    if skip_without_root("cgroups") {
        return;
    }
    run(async |place| {
        let cluster = Cluster::builder("limits").members(1).start(&place).await?;
        let member = &cluster.members[0];
        let load = Load::start(&cluster, &Plan { rate: None, ..Plan::default() })?;
        let puts_in_a_second = async || {
            let before = load.succeeded();
            tokio::time::sleep(Duration::from_secs(1)).await;
            load.succeeded() - before
        };
        let free = puts_in_a_second().await;
        member.cgroup()?.limit_writes(&member.disk().device_number()?, Some(20))?;
        let throttled = puts_in_a_second().await;
        member.cgroup()?.limit_writes(&member.disk().device_number()?, None)?;
        member.cgroup()?.limit_cpu(Some(50))?;
        let slowed = puts_in_a_second().await;
        member.cgroup()?.limit_cpu(None)?;
        println!("puts a second: {free} free, {throttled} at 20 writes/s, {slowed} at a twentieth of a core");
        ensure!(
            throttled < free / 4 && slowed < free / 2,
            "{free} free, {throttled} throttled, {slowed} slowed"
        );
        Ok(())
    });
}

#[test]
fn programmed_delays_spread_the_syncs_over_etcds_buckets() {
    if skip_without_root("loop devices") {
        return;
    }
    run(async |place| {
        let cluster = Cluster::builder("spread").members(1).slow_disk(0).start(&place).await?;
        let load = Load::start(&cluster, &Plan { rate: Some(400), ..Plan::default() })?;
        let before = cluster.metrics(0).await?;
        cluster.members[0].delays()?.spread(Duration::from_secs(8)).await;
        load.pause().await?;
        let shares = shares_between(&before, &cluster.metrics(0).await?, WAL_FSYNC);
        println!("shares of etcd's buckets: {shares:.3?}");
        let matter = shares.iter().filter(|share| **share >= 0.05).count();
        ensure!(matter >= 4, "only {matter} buckets hold 5 %");
        Ok(())
    });
}

/// A lab that was killed takes its etcds along, and the next one removes the rest.
#[test]
fn a_killed_lab_leaves_nothing_once_the_next_has_run() {
    run(async |place| {
        let start = async |name: &str| -> Result<Process> {
            let mut command = Command::new(env!("CARGO_BIN_EXE_etcdmon-lab"));
            command.args(["cluster", "--members", "1"]);
            let lab = Process::start(name, command, &place.path().join(format!("{name}.log")), &[])?;
            wait::until("the lab to run", Duration::from_secs(40), async || {
                Ok(lab.output().contains("Ctrl-C").then_some(()))
            })
            .await?;
            Ok(lab)
        };
        let mut killed = start("killed").await?;
        let prefix = format!("{PREFIX}{}-", killed.pid());
        ensure!(leftovers(&prefix)? > 0, "a running lab must show");
        killed.kill();
        let mut next = start("next").await?;
        next.signal(libc::SIGTERM)?;
        let status = next.wait(Duration::from_secs(20))?;
        ensure!(status.success(), "{status}: {}", next.output());
        ensure!(leftovers(&prefix)? == 0, "the killed lab left something");
        ensure!(leftovers(&format!("{PREFIX}{}-", next.pid()))? == 0, "the ended lab left something");
        Ok(())
    });
}

/// Mounts, loop devices, cgroups, directories and processes that carry a name.
fn leftovers(prefix: &str) -> Result<usize> {
    let mounts = std::fs::read_to_string("/proc/self/mounts")?.matches(prefix).count();
    let loops = process::run(Command::new(tools::system("losetup")?).args(["-l", "-n", "-O", "BACK-FILE"]))?;
    let named = |directory: &Path| {
        let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
        entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix)).count()
    };
    let processes = std::fs::read_dir("/proc")?
        .flatten()
        .filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok())
        .filter(|line| String::from_utf8_lossy(line).contains(prefix))
        .count();
    let groups = named(Path::new("/sys/fs/cgroup/cpu")) + named(Path::new("/sys/fs/cgroup/blkio"));
    Ok(mounts + loops.matches(prefix).count() + groups + named(&std::env::temp_dir()) + processes)
}
