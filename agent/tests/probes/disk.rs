//! A filesystem on a loop device over a file in memory, taken down when dropped.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

/// Which filesystem.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Ext4,
    Xfs,
}

pub struct Disk {
    place: tempfile::TempDir,
    device: String,
}

fn run(program: &str, arguments: &[&str]) -> Result<String, String> {
    let done =
        Command::new(program).args(arguments).output().map_err(|error| format!("{program}: {error}"))?;
    if !done.status.success() {
        return Err(format!("{program} {arguments:?}: {}", String::from_utf8_lossy(&done.stderr)));
    }
    Ok(String::from_utf8_lossy(&done.stdout).trim().to_owned())
}

impl Disk {
    /// Makes and mounts one, with etcd's directories on it.
    pub fn new(kind: Kind) -> Result<Self, String> {
        let place = tempfile::Builder::new()
            .prefix("etcdmon-probes-")
            .tempdir_in("/dev/shm")
            .map_err(|error| format!("temporary directory in /dev/shm: {error}"))?;
        let image = place.path().join("image");
        // The least that mkfs.xfs takes.
        const BYTES: u64 = 320 << 20;
        std::fs::File::create(&image)
            .and_then(|file| file.set_len(BYTES))
            .map_err(|error| error.to_string())?;
        let image = image.to_str().expect("made of ASCII");
        match kind {
            Kind::Ext4 => run("mkfs.ext4", &["-q", "-F", "-J", "size=16", image])?,
            Kind::Xfs => run("mkfs.xfs", &["-q", image])?,
        };
        let device = run("losetup", &["--find", "--show", image])?;
        let disk = Self { place, device };
        std::fs::create_dir(disk.mount_point()).map_err(|error| error.to_string())?;
        run("mount", &[&disk.device, disk.mount_point().to_str().expect("made of ASCII")])?;
        for directory in ["member/wal", "member/snap"] {
            std::fs::create_dir_all(disk.mount_point().join(directory)).map_err(|error| error.to_string())?;
        }
        Ok(disk)
    }

    fn mount_point(&self) -> PathBuf {
        self.place.path().join("disk")
    }

    /// The data directory.
    pub fn directory(&self) -> PathBuf {
        self.mount_point()
    }

    /// The device's number as the kernel encodes it.
    pub fn device_number(&self) -> u32 {
        use std::os::unix::fs::MetadataExt as _;
        let device = std::fs::metadata(self.mount_point()).expect("mounted").dev();
        libc::major(device) << 20 | libc::minor(device)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let mount_point = self.mount_point();
        if Path::new(&mount_point).exists() {
            let _ = run("umount", &[mount_point.to_str().expect("made of ASCII")]);
        }
        let _ = run("losetup", &["--detach", &self.device]);
    }
}
