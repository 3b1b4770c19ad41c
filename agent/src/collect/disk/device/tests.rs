use super::*;

/// Makes a recorded `/sys`: `files` are paths below it with their content, `links` are (link, target) below it.
pub fn tree(files: &[(&str, &str)], links: &[(&str, &str)]) -> tempfile::TempDir {
    let root = tempfile::tempdir().expect("writable");
    for (path, content) in files {
        let path = root.path().join(path);
        fs::create_dir_all(path.parent().expect("below the root")).expect("made");
        fs::write(path, content).expect("written");
    }
    for (link, target) in links {
        let link = root.path().join(link);
        fs::create_dir_all(link.parent().expect("below the root")).expect("made");
        std::os::unix::fs::symlink(root.path().join(target), link).expect("linked");
    }
    root
}

fn below(sys: &tempfile::TempDir, number: &str) -> Vec<(String, String)> {
    let stack = Stack::below(sys.path(), Number::parse(number).expect("a number"));
    stack.devices.into_iter().map(|device| (device.name, device.layer)).collect()
}

fn named(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected.iter().map(|(name, layer)| ((*name).to_owned(), (*layer).to_owned())).collect()
}

/// As on a machine with LVM over a RAID 1 of partitions of an NVMe and a SATA disk.
fn lvm_on_raid() -> tempfile::TempDir {
    tree(
        &[
            ("devices/virtual/block/dm-3/dev", "253:3\n"),
            ("devices/virtual/block/dm-3/dm/uuid", "LVM-0123456789abcdefghijklmnopqrstuv\n"),
            ("devices/virtual/block/md0/dev", "9:0\n"),
            ("devices/virtual/block/md0/md/level", "raid1\n"),
            ("devices/pci0/nvme/nvme0/nvme0n1/dev", "259:0\n"),
            ("devices/pci0/nvme/nvme0/nvme0n1/device/model", "EXAMPLE SSD 980 1TB         \n"),
            ("devices/pci0/nvme/nvme0/nvme0n1/queue/scheduler", "[none] mq-deadline kyber\n"),
            ("devices/pci0/nvme/nvme0/nvme0n1/queue/rotational", "0\n"),
            ("devices/pci0/nvme/nvme0/nvme0n1/nvme0n1p2/dev", "259:2\n"),
            ("devices/pci0/nvme/nvme0/nvme0n1/nvme0n1p2/partition", "2\n"),
            ("devices/pci0/ata1/host0/block/sda/dev", "8:0\n"),
            ("devices/pci0/ata1/host0/block/sda/queue/rotational", "1\n"),
            ("devices/pci0/ata1/host0/block/sda/queue/nr_requests", "64\n"),
            ("devices/pci0/ata1/host0/block/sda/queue/write_cache", "write back\n"),
            ("devices/pci0/ata1/host0/block/sda/size", "2048\n"),
            ("devices/pci0/ata1/host0/block/sda/sda1/dev", "8:1\n"),
            ("devices/pci0/ata1/host0/block/sda/sda1/partition", "1\n"),
        ],
        &[
            ("dev/block/253:3", "devices/virtual/block/dm-3"),
            ("dev/block/9:0", "devices/virtual/block/md0"),
            ("dev/block/259:0", "devices/pci0/nvme/nvme0/nvme0n1"),
            ("dev/block/259:2", "devices/pci0/nvme/nvme0/nvme0n1/nvme0n1p2"),
            ("dev/block/8:0", "devices/pci0/ata1/host0/block/sda"),
            ("dev/block/8:1", "devices/pci0/ata1/host0/block/sda/sda1"),
            ("devices/virtual/block/dm-3/slaves/md0", "devices/virtual/block/md0"),
            ("devices/virtual/block/md0/slaves/sda1", "devices/pci0/ata1/host0/block/sda/sda1"),
            ("devices/virtual/block/md0/slaves/nvme0n1p2", "devices/pci0/nvme/nvme0/nvme0n1/nvme0n1p2"),
        ],
    )
}

#[test]
fn a_logical_volume_is_followed_to_the_disks_of_its_array() {
    let sys = lvm_on_raid();
    let expected = [
        ("dm-3", "lvm"),
        ("md0", "raid1"),
        ("sda1", "partition"),
        ("sda", "disk"),
        ("nvme0n1p2", "partition"),
        ("nvme0n1", "disk"),
    ];
    assert_eq!(below(&sys, "253:3"), named(&expected));
    let volume = Stack::below(sys.path(), Number { major: 253, minor: 3 });
    let partition = Stack::below(sys.path(), Number { major: 8, minor: 1 });
    assert!(volume.shares_disk_with(&partition) && partition.shares_disk_with(&volume));
    assert!(!volume.shares_disk_with(&Stack::default()), "no disk is not the same disk");
}

#[test]
fn the_facts_of_a_disk_are_those_of_its_queue() {
    let sys = lvm_on_raid();
    let disks: Vec<Facts> =
        Stack::below(sys.path(), Number { major: 9, minor: 0 }).disks().map(Facts::of).collect();
    let [spinning, flash] = disks.as_slice() else { panic!("{disks:?}") };
    assert_eq!((spinning.kind, flash.kind), ("hdd", "nvme"));
    assert_eq!((flash.model.as_str(), flash.scheduler.as_str()), ("EXAMPLE SSD 980 1TB", "none"));
    assert_eq!((spinning.queue_requests, spinning.size_bytes), (Some(64), Some(1 << 20)));
    assert_eq!((spinning.write_cache.as_str(), spinning.logical_block_bytes), ("write back", None));
}

#[test]
fn what_a_disk_is_follows_from_its_name_its_model_and_its_bus() {
    let kind = |name: &str, path: &str, layer: &str, model: &str, rotational: &str| {
        let sys = tree(&[(&format!("{path}/queue/rotational"), rotational)], &[]);
        let directory = sys.path().join(path);
        let number = Number { major: 8, minor: 0 };
        let (name, layer) = (name.to_owned(), layer.to_owned());
        kind_of(&Device { number, name, directory, layer, is_bottom: true }, model)
    };
    assert_eq!(kind("vda", "virtio1/block/vda", "disk", "", "1"), "virtual");
    assert_eq!(kind("sda", "virtio3/host2/block/sda", "disk", "QEMU HARDDISK", "1"), "virtual");
    assert_eq!(kind("xvdf", "vbd-51792", "disk", "", "0"), "virtual");
    assert_eq!(kind("nvme1n1", "nvme", "disk", "Amazon Elastic Block Store", "0"), "network");
    assert_eq!(kind("nvme1n1", "nvme", "disk", "Amazon EC2 NVMe Instance Storage", "0"), "nvme");
    assert_eq!(kind("sdb", "host3/session1/target3", "disk", "LIO-ORG", "0"), "network");
    assert_eq!(kind("nbd0", "nbd", "disk", "", "0"), "network");
    assert_eq!(kind("zram0", "z", "disk", "", "0"), "memory");
    assert_eq!(kind("loop3", "l", "loop", "", "1"), "file");
    assert_eq!(kind("sdc", "ata", "disk", "", "0"), "ssd");
    assert_eq!(kind("sdc", "ata", "disk", "", "\u{0}\u{1}"), "unknown");
}

#[test]
fn loops_and_depth_and_width_are_bounded() {
    let circle = tree(
        &[("devices/a/dev", "1:1"), ("devices/b/dev", "1:2")],
        &[
            ("dev/block/1:1", "devices/a"),
            ("dev/block/1:2", "devices/b"),
            ("devices/a/slaves/b", "devices/b"),
            ("devices/b/slaves/a", "devices/a"),
        ],
    );
    assert_eq!(below(&circle, "1:1"), named(&[("a", "stacked"), ("b", "stacked")]));

    let root = tempfile::tempdir().expect("writable");
    let device = |index: usize| root.path().join(format!("devices/d{index}"));
    for index in 1..200 {
        fs::create_dir_all(device(index).join("slaves")).expect("made");
        fs::write(device(index).join("dev"), format!("1:{index}")).expect("written");
        let link = root.path().join(format!("dev/block/1:{index}"));
        fs::create_dir_all(link.parent().expect("below the root")).expect("made");
        std::os::unix::fs::symlink(device(index), link).expect("linked");
        if index > 1 {
            std::os::unix::fs::symlink(device(index), device(1).join(format!("slaves/d{index}")))
                .expect("linked");
        }
    }
    let wide = Stack::below(root.path(), Number { major: 1, minor: 1 });
    assert_eq!((wide.devices.len(), wide.left_out), (DEVICES_LIMIT, 199 - DEVICES_LIMIT));
}

#[test]
fn hostile_trees_yield_less_and_never_a_panic() {
    let sys = tree(
        &[
            ("devices/x/dev", "\u{0}\u{0}:-"),
            ("devices/x/partition", ""),
            ("devices/y/dev", "1:99999999999999999999"),
            ("devices/y/dm/uuid", "-\n"),
            ("devices/y/size", "18446744073709551615"),
            ("devices/y/queue/scheduler", "]["),
            ("devices/y/loop/backing_file", "/none/of this (deleted)"),
        ],
        &[
            ("dev/block/1:1", "devices/x"),
            ("dev/block/1:2", "devices/y"),
            ("devices/y/slaves/gone", "devices/gone"),
        ],
    );
    assert_eq!(below(&sys, "1:1"), named(&[("x", "partition")]));
    assert_eq!(below(&sys, "1:2"), named(&[("y", "loop")]));
    assert_eq!(below(&sys, "7:7"), []);
    assert_eq!(below(&sys, "0:40"), [], "no block device");
    let y = Stack::below(sys.path(), Number { major: 1, minor: 2 });
    let facts = Facts::of(&y.devices[0]);
    assert_eq!((facts.kind, facts.size_bytes, facts.scheduler.as_str()), ("file", None, "]["));
    for text in ["", ":", "1", "a:b", "1:2:3", "-1:2"] {
        assert_eq!(Number::parse(text), None, "{text}");
    }
}

/// This machine's own root, whatever it is.
#[test]
fn the_root_of_this_machine_ends_on_a_disk_or_has_no_block_device() {
    let number = Number::of(fs::metadata("/").expect("root").dev());
    let stack = Stack::below(Path::new("/sys"), number);
    if stack.devices.is_empty() {
        println!("skipped: the root filesystem has no block device");
        return;
    }
    assert!(stack.disks().count() >= 1, "{stack:?}");
}
