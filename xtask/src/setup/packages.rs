//! Debian packages that building, running and testing need.

use anyhow::Result;
use std::path::Path;

use super::{Outcome, Piece, Purpose};
use crate::apt;
use crate::place::Place;
use crate::run;

/// A package, what first needs it, and how to see that what it brings is there, from wherever it came.
struct Package {
    name: &'static str,
    purpose: Purpose,
    present: fn() -> bool,
}

const NEEDED: &[Package] = &[
    Package { name: "gcc", purpose: Purpose::Build, present: || run::which("cc").is_some() },
    Package { name: "libc6-dev", purpose: Purpose::Build, present: || exists("/usr/include/stdlib.h") },
    Package {
        name: "ca-certificates",
        purpose: Purpose::Build,
        present: || exists("/etc/ssl/certs/ca-certificates.crt"),
    },
    Package {
        name: "curl",
        purpose: Purpose::Up,
        present: || run::which("curl").or_else(|| run::which("wget")).is_some(),
    },
    Package { name: "e2fsprogs", purpose: Purpose::Up, present: || run::which("mkfs.ext4").is_some() },
    Package { name: "util-linux", purpose: Purpose::Up, present: || run::which("losetup").is_some() },
    Package { name: "mount", purpose: Purpose::Up, present: || run::which("mount").is_some() },
    Package { name: "fio", purpose: Purpose::Bench, present: || run::which("fio").is_some() },
    Package { name: "linux-perf", purpose: Purpose::Bench, present: || run::which("perf").is_some() },
    Package { name: "systemd", purpose: Purpose::Test, present: || run::which("systemd-analyze").is_some() },
    Package { name: "xfsprogs", purpose: Purpose::Bench, present: || run::which("mkfs.xfs").is_some() },
];

/// What `cargo xtask vm` needs besides; nothing else does.
const OF_MACHINES: &[Package] = &[
    Package {
        name: "qemu-system-x86",
        purpose: Purpose::Test,
        present: || run::which("qemu-system-x86_64").is_some(),
    },
    Package { name: "e2fsprogs", purpose: Purpose::Test, present: || run::which("mkfs.ext4").is_some() },
    Package { name: "xfsprogs", purpose: Purpose::Test, present: || run::which("mkfs.xfs").is_some() },
    Package { name: "xz-utils", purpose: Purpose::Test, present: || run::which("xz").is_some() },
    Package { name: "zstd", purpose: Purpose::Test, present: || run::which("zstd").is_some() },
    Package { name: "binutils", purpose: Purpose::Test, present: || run::which("strip").is_some() },
];

/// Installs what `cargo xtask vm` needs besides the build.
///
/// # Errors
/// Without root, with the command that a person can type.
pub fn for_machines(place: &Place) -> Result<()> {
    let missing: Vec<&str> =
        OF_MACHINES.iter().filter(|package| !(package.present)()).map(|package| package.name).collect();
    if missing.is_empty() { Ok(()) } else { apt::install(place, &missing) }
}

fn exists(path: &str) -> bool {
    Path::new(path).exists()
}

/// The packages that one purpose adds, in one run of apt.
pub struct Packages(pub Purpose);

impl Packages {
    fn missing(&self) -> Vec<&'static str> {
        let wanted = NEEDED.iter().filter(|package| package.purpose == self.0);
        wanted.filter(|package| !(package.present)()).map(|package| package.name).collect()
    }
}

impl Piece for Packages {
    fn name(&self) -> String {
        format!("Debian packages: {}", self.missing().join(", "))
    }

    fn purpose(&self) -> Purpose {
        self.0
    }

    fn ready(&self, _: &Place) -> bool {
        self.missing().is_empty()
    }

    fn fetch(&self, place: &Place) -> Result<Outcome> {
        apt::install(place, &self.missing())?;
        Ok(Outcome::Ready)
    }

    fn without(&self) -> &'static str {
        match self.0 {
            Purpose::Build => "the build may fail",
            Purpose::Up => "downloads, or disks of their own for etcd members, may fail",
            Purpose::Bench | Purpose::Test => "suites and benchmarks that need them are skipped",
        }
    }
}
