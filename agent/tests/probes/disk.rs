//! A filesystem on a loop device over a file in memory, taken down when dropped.

use std::{path::PathBuf, process::Command};

/// Which filesystem.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Ext4,
    Xfs,
}

/// Nothing is left for the kernel to write in the background.
const LAZY: &str = "lazy_itable_init=0,lazy_journal_init=0";

pub struct Disk {
    place: tempfile::TempDir,
    device: Option<String>,
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
        Self::of(kind, Some("1g"))
    }

    /// One whose file is not in memory but where temporary files are: as slow as that.
    pub fn on_disk(kind: Kind) -> Result<Self, String> {
        Self::of(kind, None)
    }

    /// One whose device fails when some 100 MiB of it are written.
    pub fn failing(kind: Kind) -> Result<Self, String> {
        Self::of(kind, Some("128m"))
    }

    fn of(kind: Kind, room: Option<&str>) -> Result<Self, String> {
        let place = tempfile::Builder::new()
            .prefix("etcdmon-probes-")
            .tempdir()
            .map_err(|error| format!("temporary directory: {error}"))?;
        let disk = Self { place, device: None };
        disk.set_up(kind, room)
    }

    fn set_up(mut self, kind: Kind, room: Option<&str>) -> Result<Self, String> {
        let memory = self.place.path().join("memory");
        std::fs::create_dir(&memory).map_err(|error| error.to_string())?;
        let memory_path = memory.to_str().expect("made of ASCII");
        if let Some(room) = room {
            run("mount", &["-t", "tmpfs", "-o", &format!("size={room}"), "none", memory_path])?;
        }
        let image = memory.join("image");
        // The least that mkfs.xfs takes.
        const BYTES: u64 = 320 << 20;
        std::fs::File::create(&image)
            .and_then(|file| file.set_len(BYTES))
            .map_err(|error| error.to_string())?;
        let image = image.to_str().expect("made of ASCII");
        match kind {
            Kind::Ext4 => run("mkfs.ext4", &["-q", "-F", "-J", "size=16", "-E", LAZY, image])?,
            Kind::Xfs => run("mkfs.xfs", &["-q", image])?,
        };
        let device = self.device.insert(run("losetup", &["--find", "--show", image])?);
        let mount_point = self.place.path().join("disk");
        std::fs::create_dir(&mount_point).map_err(|error| error.to_string())?;
        run("mount", &[device, mount_point.to_str().expect("made of ASCII")])?;
        for directory in ["member/wal", "member/snap"] {
            std::fs::create_dir_all(mount_point.join(directory)).map_err(|error| error.to_string())?;
        }
        Ok(self)
    }

    fn mount_point(&self) -> PathBuf {
        self.place.path().join("disk")
    }

    /// The data directory.
    pub fn directory(&self) -> PathBuf {
        self.mount_point()
    }

    /// Name of the device, such as `loop3`.
    pub fn name(&self) -> &str {
        self.device.as_deref().and_then(|device| device.strip_prefix("/dev/")).expect("made of it")
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
        // Each of them may not have come about.
        let unmount =
            |name: &str| run("umount", &[self.place.path().join(name).to_str().expect("made of ASCII")]);
        let _ = unmount("disk");
        if let Some(device) = &self.device {
            let _ = run("losetup", &["--detach", device]);
        }
        // The kernel lets go of the image only some time after the device.
        let memory = self.place.path().join("memory");
        let _ = run("umount", &["--lazy", memory.to_str().expect("made of ASCII")]);
    }
}
