use std::fs;
use std::os::unix::fs::MetadataExt;

use super::*;
use crate::collect::sheet::values_of;

fn real(paths: [&Path; 2]) -> DiskCollector {
    let own = |name: &str| format!("/proc/self/{name}").into();
    let sources = Sources {
        sys: "/sys".into(),
        mounts: own("mountinfo"),
        root: own("root"),
        node_mounts: ["/proc/1/mountinfo".into(), own("mountinfo")],
        filesystems: "/proc/fs".into(),
    };
    let id = ProcessId { boot_id: [0; 16], pid: 1, start_ticks: 0 };
    DiskCollector::over(sources, id, paths.map(Path::to_owned).to_vec(), Duration::from_secs(1))
}

fn events(notes: &[Note]) -> Vec<&Event> {
    let facts =
        notes.iter().filter_map(|note| if let Note::Facts(facts) = note { Some(facts) } else { None });
    facts
        .flatten()
        .filter_map(|fact| if let Fact::Event(event) = fact { Some(event) } else { None })
        .collect()
}

#[test]
fn columns_of_an_old_kernel_are_absent_and_garbage_is_nothing() {
    assert_eq!(parse_stat("  1 2 3 4 5 6 7 8 9 10 11\n").len(), 11);
    for hostile in ["", "-1", "x", "\u{0}", "99999999999999999999999 1"] {
        assert_eq!(parse_stat(hostile), Vec::<u64>::new(), "{hostile:?}");
    }
}

#[tokio::test]
async fn a_real_directory_has_activity_space_and_facts_once() {
    let directory = tempfile::tempdir().expect("writable");
    let number = device::Number::of(fs::metadata(directory.path()).expect("there").dev());
    if Stack::below(Path::new("/sys"), number).devices.is_empty() {
        println!("skipped: the temporary directory is not on a block device");
        return;
    }
    let wal = directory.path().join("wal");
    let mut collector = real([directory.path(), &wal]);
    let notes = collector.collect(Reading::now()).await.expect("read");
    let values = values_of(&notes);
    let has = |name: &str| values.keys().any(|key| key.starts_with(name));
    assert!(values["etcdmon_disk_size_bytes data"] > 0.0, "{values:?}");
    assert!(has("etcdmon_disk_operations_total") && has("etcdmon_disk_queue_seconds_total"), "{values:?}");
    assert!(has("etcdmon_disk_info"), "{values:?}");
    assert_eq!(events(&notes).len(), 1, "{notes:?}");
    assert!(!has("etcdmon_disk_size_bytes wal"), "the WAL is not there yet: {values:?}");

    // Once it is, it is found by the next survey, and told with the data directory it shares the disk with.
    fs::create_dir(&wal).expect("made");
    let mut told = Vec::new();
    for _ in 0..3 * SPACE_EVERY {
        let notes = collector.collect(Reading::now()).await.expect("read");
        told.extend(events(&notes).into_iter().cloned());
    }
    let [event] = told.as_slice() else { panic!("{told:?}") };
    assert_eq!(event.kind, "disk.facts");
    assert_eq!(event.details["directory"], "wal");
    assert_eq!(event.details["wal_shares_disk"], true);
    assert!(!event.details["disks"][0]["device"].as_str().expect("a name").is_empty(), "{}", event.details);
}

#[tokio::test]
async fn a_device_that_goes_away_is_looked_for_anew() {
    let directory = tempfile::tempdir().expect("writable");
    let mut collector = real([directory.path(), directory.path()]);
    collector.collect(Reading::now()).await.expect("read");
    let gone = device::Device {
        number: device::Number { major: 7, minor: 1 },
        name: "gone".to_owned(),
        directory: "/sys/none".into(),
        layer: "disk".to_owned(),
        is_bottom: true,
    };
    collector.ground_due = false;
    collector.directories[0].activity = vec![Activity::new(&mut collector.sheet, &gone, "data", "volume")];
    let _yielded_or_not = collector.collect(Reading::now()).await;
    assert!(collector.ground_due);
}

#[tokio::test]
async fn nothing_there_is_an_error() {
    let mut collector = real([Path::new("/none"), Path::new("/none/wal")]);
    let notes = collector.collect(Reading::now()).await.expect("how long was waited is known");
    assert_eq!(values_of(&notes).len(), 1, "{notes:?}");
}
