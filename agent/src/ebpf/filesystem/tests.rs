use super::*;

const XFS: u64 = 0x5846_5342;

fn ext(mounted_as: Option<&str>) -> Filesystem {
    Filesystem { magic: EXT_MAGIC, mounted_as: mounted_as.map(str::to_owned) }
}

fn paths(names: &[&str]) -> Vec<PathBuf> {
    names.iter().map(PathBuf::from).collect()
}

#[test]
fn ext4_alone_takes_the_filesystems_tracepoints() {
    for mounted_as in [Some("ext4"), Some("ext3"), None] {
        let choice = choose(&paths(&["/no/data", "/no/wal"]), |_| Ok(ext(mounted_as)));
        assert_eq!(choice.hook, Hook::Filesystem, "{mounted_as:?}");
    }
}

#[test]
fn one_directory_elsewhere_takes_the_syscalls_for_all() {
    let choice = choose(&paths(&["/no/data", "/no/wal"]), |path| {
        Ok(if path.ends_with("wal") { Filesystem { magic: XFS, mounted_as: None } } else { ext(None) })
    });
    assert_eq!(choice.hook, Hook::Syscall);
    assert_eq!(choice.reason, "xfs at /no/wal has no tracepoints for both ends of a sync");
}

#[test]
fn ext2_an_unknown_filesystem_an_error_and_no_directory_take_the_syscalls() {
    assert_eq!(choose(&paths(&["/no"]), |_| Ok(ext(Some("ext2")))).hook, Hook::Syscall);
    let unknown = choose(&paths(&["/no"]), |_| Ok(Filesystem { magic: 0x1234, mounted_as: None }));
    assert_eq!(unknown.reason, "filesystem 0x1234 at /no has no tracepoints for both ends of a sync");
    assert_eq!(choose(&paths(&["/no"]), |_| Err(io::ErrorKind::NotFound.into())).hook, Hook::Syscall);
    assert_eq!(choose(&[], |_| Ok(ext(None))).hook, Hook::Syscall);
}

#[test]
fn a_wal_directory_linked_to_another_disk_is_noticed() {
    let place = tempfile::tempdir().expect("temporary directory");
    std::fs::create_dir_all(place.path().join("member/snap")).expect("create");
    std::fs::create_dir(place.path().join("elsewhere")).expect("create");
    std::os::unix::fs::symlink("../elsewhere", place.path().join("member/wal")).expect("link");
    let choice = choose(&[place.path().to_owned()], |path| {
        let real = path.canonicalize().expect("exists");
        Ok(if real.ends_with("elsewhere") { Filesystem { magic: XFS, mounted_as: None } } else { ext(None) })
    });
    assert_eq!(choice.hook, Hook::Syscall);
}

#[test]
fn the_mount_table_tells_the_type() {
    let table = "22 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n\
                 36 22 7:0 / /mnt/a\\040b rw shared:1 master:2 - ext2 /dev/loop0 rw\n\
                 garbage\n\n40 - \n";
    assert_eq!(mounted_as(table, libc::makedev(254, 0)).as_deref(), Some("ext4"));
    assert_eq!(mounted_as(table, libc::makedev(7, 0)).as_deref(), Some("ext2"));
    assert_eq!(mounted_as(table, libc::makedev(7, 1)), None);
    assert_eq!(mounted_as("", 0), None);
}

#[test]
fn the_kernel_answers_for_a_real_directory() {
    let found = look(std::process::id(), Path::new("/proc")).expect("proc is mounted");
    assert_eq!(found.mounted_as.as_deref(), Some("proc"));
    assert!(look(std::process::id(), Path::new("/nonexistent")).is_err());
}
