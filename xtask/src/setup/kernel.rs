//! Kernel devices of the lab: loop devices for members' disks, FUSE for the disk with a programmed delay.

use anyhow::{Context, Result, bail};
use std::path::Path;
use std::process::Command;

use super::{Outcome, Piece, Purpose};
use crate::place::Place;
use crate::run;

const DEVICES: [(&str, &str); 2] = [("/dev/loop-control", "loop"), ("/dev/fuse", "fuse")];

/// Both devices.
pub struct Devices;

impl Piece for Devices {
    fn name(&self) -> String {
        "kernel devices /dev/loop-control and /dev/fuse".to_owned()
    }

    fn purpose(&self) -> Purpose {
        Purpose::Up
    }

    fn ready(&self, _: &Place) -> bool {
        DEVICES.iter().all(|(device, _)| Path::new(device).exists())
    }

    fn fetch(&self, _: &Place) -> Result<Outcome> {
        if !run::root() {
            bail!("not root: run `modprobe loop; modprobe fuse` as root");
        }
        let modprobe = run::which("modprobe")
            .context("no modprobe here: apt-get install kmod, or use a kernel with both built in")?;
        for (device, module) in DEVICES {
            if !Path::new(device).exists() {
                run::output(Command::new(&modprobe).arg(module))?;
            }
        }
        Ok(Outcome::Ready)
    }

    fn without(&self) -> &'static str {
        "the lab cannot give each etcd member a disk of its own, nor slow one down"
    }
}
