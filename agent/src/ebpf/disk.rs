//! Which disks a directory's bytes end up on: its own, and below a loop device or a stack of mapped devices those that
//! carry it.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

/// Layers that are followed; real stacks have three or four.
const DEEPEST: usize = 16;

/// Where the kernel shows block devices.
const SYSFS: &str = "/sys";

/// The whole disks beneath a directory as process `pid` sees its mounts, encoded as (major << 20) | minor: first the one of
/// its filesystem, then those below it. None where the filesystem has no disk (tmpfs, network).
///
/// # Errors
/// When the directory can't be reached.
pub fn disks_of(pid: u32, directory: &Path) -> io::Result<Vec<u32>> {
    let device = fs::metadata(directory)?.dev();
    let mounts = fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap_or_default();
    let mut disks = Vec::new();
    collect(Path::new(SYSFS), block_device(device, &mounts), 0, &mut disks);
    Ok(disks)
}

/// The device that a filesystem is on. Those that span several devices, such as btrfs, have a number of their own; there
/// the device that was mounted is taken.
fn block_device(device: u64, mountinfo: &str) -> u64 {
    if libc::major(device) != 0 {
        return device;
    }
    let source = mounted_from(mountinfo, device).and_then(|source| fs::metadata(source).ok());
    source.map_or(device, |source| source.rdev())
}

/// The device file of the mount with this device number in a mountinfo table (proc(5)).
fn mounted_from(mountinfo: &str, device: u64) -> Option<PathBuf> {
    let wanted = format!("{}:{}", libc::major(device), libc::minor(device));
    mountinfo.lines().find_map(|line| {
        let (mount, filesystem) = line.split_once(" - ")?;
        let found = mount.split(' ').nth(2)? == wanted;
        let source = filesystem.split(' ').nth(1)?;
        (found && source.starts_with("/dev/")).then(|| PathBuf::from(source))
    })
}

fn collect(sysfs: &Path, device: u64, depth: usize, disks: &mut Vec<u32>) {
    let named = sysfs.join(format!("dev/block/{}:{}", libc::major(device), libc::minor(device)));
    let Ok(mut directory) = fs::canonicalize(named) else { return };
    if directory.join("partition").exists() {
        directory.pop();
    }
    let Some(disk) = fs::read_to_string(directory.join("dev")).ok().and_then(|text| number(&text)) else {
        return;
    };
    if depth > DEEPEST || disks.contains(&disk) {
        return;
    }
    disks.push(disk);
    if let Ok(file) = fs::read_to_string(directory.join("loop/backing_file"))
        && let Ok(found) = fs::metadata(file.trim_end())
    {
        // A loop device may be over a file or over another device.
        let below = if found.rdev() == 0 { found.dev() } else { found.rdev() };
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        collect(sysfs, block_device(below, &mounts), depth + 1, disks);
    }
    for slave in fs::read_dir(directory.join("slaves")).into_iter().flatten().flatten() {
        let text = fs::read_to_string(slave.path().join("dev")).unwrap_or_default();
        if let Some((major, minor)) = parse(&text) {
            collect(sysfs, libc::makedev(major, minor), depth + 1, disks);
        }
    }
}

fn parse(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.trim_end().split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

fn number(text: &str) -> Option<u32> {
    parse(text).map(|(major, minor)| major << 20 | minor)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// A sysfs with `sda1` on `sda` and `dm-0` over `sda1` and `sdb`.
    fn sysfs() -> tempfile::TempDir {
        let place = tempfile::tempdir().expect("temporary directory");
        let root = place.path();
        fs::create_dir_all(root.join("dev/block")).expect("create");
        let device = |path: &str, number: &str| {
            fs::create_dir_all(root.join(path)).expect("create");
            fs::write(root.join(path).join("dev"), format!("{number}\n")).expect("write");
            symlink(root.join(path), root.join("dev/block").join(number)).expect("link");
        };
        device("devices/sda", "8:0");
        device("devices/sda/sda1", "8:1");
        fs::write(root.join("devices/sda/sda1/partition"), "1\n").expect("write");
        device("devices/sdb", "8:16");
        device("devices/dm-0", "253:0");
        fs::create_dir_all(root.join("devices/dm-0/slaves")).expect("create");
        symlink(root.join("devices/sda/sda1"), root.join("devices/dm-0/slaves/sda1")).expect("link");
        symlink(root.join("devices/sdb"), root.join("devices/dm-0/slaves/sdb")).expect("link");
        place
    }

    fn below(sysfs: &tempfile::TempDir, major: u32, minor: u32) -> Vec<u32> {
        let mut disks = Vec::new();
        collect(sysfs.path(), libc::makedev(major, minor), 0, &mut disks);
        disks
    }

    #[test]
    fn a_partition_is_on_its_disk() {
        let sysfs = sysfs();
        assert_eq!(below(&sysfs, 8, 1), [8 << 20]);
        assert_eq!(below(&sysfs, 8, 16), [8 << 20 | 16]);
    }

    #[test]
    fn a_mapped_device_is_on_all_its_disks() {
        let mut found = below(&sysfs(), 253, 0);
        assert_eq!(found.remove(0), 253 << 20);
        found.sort_unstable();
        assert_eq!(found, [8 << 20, 8 << 20 | 16]);
    }

    #[test]
    fn a_loop_device_is_on_the_disk_of_its_file() {
        let sysfs = sysfs();
        let root = sysfs.path();
        fs::create_dir_all(root.join("devices/loop0/loop")).expect("create");
        fs::write(root.join("devices/loop0/dev"), "7:0\n").expect("write");
        let file = root.join("image");
        fs::write(&file, []).expect("write");
        fs::write(root.join("devices/loop0/loop/backing_file"), format!("{}\n", file.display()))
            .expect("write");
        symlink(root.join("devices/loop0"), root.join("dev/block/7:0")).expect("link");
        // The file's own device stands for the disk that carries it.
        let carrier = fs::metadata(&file).expect("written").dev();
        let name = format!("{}:{}", libc::major(carrier), libc::minor(carrier));
        fs::create_dir_all(root.join("devices/carrier")).expect("create");
        fs::write(root.join("devices/carrier/dev"), format!("{name}\n")).expect("write");
        symlink(root.join("devices/carrier"), root.join("dev/block").join(&name)).expect("link");
        assert_eq!(below(&sysfs, 7, 0), [7 << 20, number(&name).expect("a number")]);
    }

    #[test]
    fn what_has_no_disk_has_none() {
        assert_eq!(below(&sysfs(), 0, 44), Vec::<u32>::new());
    }

    #[test]
    fn the_mounted_device_stands_for_a_filesystem_that_spans_several() {
        let table = "36 35 0:44 / /data rw - btrfs /dev/sdz9 rw\n37 35 0:45 / /tmp rw - tmpfs none rw\n";
        let found = |minor| mounted_from(table, libc::makedev(0, minor));
        assert_eq!(found(44), Some(PathBuf::from("/dev/sdz9")));
        assert_eq!(found(45), None);
    }
}
