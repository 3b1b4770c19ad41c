//! What a filesystem sits on: from a device number through partitions, LVM and other device mapper targets, md, bcache and loop
//! devices down to the disks, from `/sys/dev/block`, and what the kernel knows of each.
//!
//! Whoever is not block device at all (tmpfs, NFS, ZFS) has an empty stack. btrfs and overlayfs hide theirs behind an anonymous
//! number: [`super::mount`] says which device they were mounted from.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Most devices of one stack; a wide RAID has dozens.
const DEVICES_LIMIT: usize = 64;

/// Most layers: loop on LVM on md on partitions is five.
const DEPTH_LIMIT: usize = 10;

/// Most bytes of an attribute.
const ATTRIBUTE_LIMIT: usize = 4096;

/// A device number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Number {
    /// Major.
    pub major: u32,
    /// Minor.
    pub minor: u32,
}

impl Number {
    /// From `st_dev` or `st_rdev`.
    pub const fn of(device: u64) -> Self {
        Self { major: libc::major(device), minor: libc::minor(device) }
    }

    /// From `MAJOR:MINOR`.
    pub fn parse(text: &str) -> Option<Self> {
        let (major, minor) = text.trim().split_once(':')?;
        Some(Self { major: major.parse().ok()?, minor: minor.parse().ok()? })
    }

    /// False for a filesystem without a block device of its own.
    pub const fn is_block(self) -> bool {
        self.major != 0
    }
}

impl fmt::Display for Number {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}:{}", self.major, self.minor)
    }
}

/// One block device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Its number.
    pub number: Number,
    /// Name, as in `/proc/diskstats`.
    pub name: String,
    /// Its directory in `/sys`.
    pub directory: PathBuf,
    /// `partition`, `lvm`, `crypt`, `mpath`, `dm`, `raid0` …, `bcache`, `loop`, or `disk`.
    pub layer: String,
    /// Nothing more is known to be below: a disk, or a loop device whose file can't be found.
    pub is_bottom: bool,
}

impl Device {
    /// An attribute, in words without the blanks around. `None` when it is absent, empty or not readable.
    pub fn attribute(&self, name: &str) -> Option<String> {
        attribute(&self.directory.join(name))
    }
}

/// A filesystem's device and everything below it, from the top; ends with the disks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stack {
    /// The devices.
    pub devices: Vec<Device>,
    /// Devices that were left out because there were too many, or they lay too deep.
    pub left_out: usize,
}

impl Stack {
    /// What is below a device, by the tree `sys` (`/sys` on a live system).
    pub fn below(sys: &Path, top: Number) -> Self {
        let mut stack = Self::default();
        let mut met = BTreeSet::new();
        stack.add(sys, top, 0, &mut met);
        stack
    }

    fn add(&mut self, sys: &Path, number: Number, depth: usize, met: &mut BTreeSet<Number>) {
        if !number.is_block() || !met.insert(number) {
            return;
        }
        if depth >= DEPTH_LIMIT || self.devices.len() >= DEVICES_LIMIT {
            self.left_out += 1;
            return;
        }
        let Ok(directory) = fs::canonicalize(sys.join("dev/block").join(number.to_string())) else { return };
        let Some(name) = directory.file_name().map(|name| name.to_string_lossy().into_owned()) else {
            return;
        };
        let (layer, below) = layer_of(&directory, &name);
        let is_bottom = !below.iter().any(|number| number.is_block());
        self.devices.push(Device { number, name, directory, layer, is_bottom });
        for number in below {
            self.add(sys, number, depth + 1, met);
        }
    }

    /// The disks at its bottom.
    pub fn disks(&self) -> impl Iterator<Item = &Device> {
        self.devices.iter().filter(|device| device.is_bottom)
    }

    /// True when both end on at least one disk in common.
    pub fn shares_disk_with(&self, other: &Self) -> bool {
        self.disks().any(|ours| other.disks().any(|theirs| ours.number == theirs.number))
    }
}

/// What a device is, and the numbers of those right below it.
fn layer_of(directory: &Path, name: &str) -> (String, Vec<Number>) {
    if directory.join("partition").exists() {
        let whole = directory.parent().and_then(number_of);
        return ("partition".to_owned(), whole.into_iter().collect());
    }
    if let Some(file) = attribute(&directory.join("loop/backing_file")) {
        // The path is as the one who set it up saw it; a file that is not there leaves the stack at the loop device.
        let below = fs::metadata(&file).ok().map(|metadata| Number::of(metadata.dev()));
        return ("loop".to_owned(), below.into_iter().collect());
    }
    let mut below: Vec<Number> = fs::read_dir(directory.join("slaves"))
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| number_of(&entry.path()))
        .collect();
    below.sort_unstable();
    let layer = if let Some(uuid) = attribute(&directory.join("dm/uuid")) {
        let kind = uuid.split('-').next().unwrap_or_default().to_lowercase();
        if matches!(kind.as_str(), "lvm" | "crypt" | "mpath" | "raid") { kind } else { "dm".to_owned() }
    } else if directory.join("dm").exists() {
        "dm".to_owned()
    } else if let Some(level) = attribute(&directory.join("md/level")) {
        level
    } else if directory.join("bcache").exists() && name.starts_with("bcache") {
        "bcache".to_owned()
    } else if below.is_empty() {
        "disk".to_owned()
    } else {
        "stacked".to_owned()
    };
    (layer, below)
}

fn number_of(directory: &Path) -> Option<Number> {
    Number::parse(&attribute(&directory.join("dev"))?)
}

/// A small file of `/sys` as text.
pub fn attribute(path: &Path) -> Option<String> {
    let mut bytes = fs::read(path).ok()?;
    bytes.truncate(ATTRIBUTE_LIMIT);
    let text = String::from_utf8_lossy(&bytes);
    let text = text.trim_matches(|character: char| character.is_whitespace() || character == '\0');
    (!text.is_empty()).then(|| text.to_owned())
}

/// What the kernel knows of a disk.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// `nvme`, `ssd`, `hdd`, `virtual` (virtio, Xen, a hypervisor's own), `network` (nbd, rbd, iSCSI, a cloud's volume),
    /// `memory`, `file` (loop with nothing below) or `unknown`.
    pub kind: &'static str,
    /// Model, as the device says; empty when it says none.
    pub model: String,
    /// I/O scheduler that is chosen, `none` included.
    pub scheduler: String,
    /// `write back` (a flush costs) or `write through`.
    pub write_cache: String,
    /// Requests that may wait, per hardware queue.
    pub queue_requests: Option<u64>,
    /// Smallest unit that can be addressed, in bytes.
    pub logical_block_bytes: Option<u64>,
    /// Smallest unit that is written at once, in bytes.
    pub physical_block_bytes: Option<u64>,
    /// Size in bytes.
    pub size_bytes: Option<u64>,
    /// Target of writeback throttling in microseconds; 0 = off.
    pub writeback_throttle_us: Option<u64>,
}

impl Facts {
    /// Of a device.
    pub fn of(device: &Device) -> Self {
        let text = |name| device.attribute(name).unwrap_or_default();
        let number = |name| device.attribute(name)?.parse::<u64>().ok();
        let model = device.attribute("device/model").or_else(|| device.attribute("device/name"));
        let model = model.unwrap_or_default();
        Self {
            kind: kind_of(device, &model),
            scheduler: chosen(&text("queue/scheduler")),
            write_cache: text("queue/write_cache"),
            queue_requests: number("queue/nr_requests"),
            logical_block_bytes: number("queue/logical_block_size"),
            physical_block_bytes: number("queue/physical_block_size"),
            // Always in units of 512 bytes.
            size_bytes: number("size").and_then(|sectors| sectors.checked_mul(512)),
            writeback_throttle_us: number("queue/wbt_lat_usec"),
            model,
        }
    }
}

/// `none [mq-deadline] kyber` chooses mq-deadline.
fn chosen(text: &str) -> String {
    let inside = text.split_once('[').and_then(|(_, rest)| rest.split_once(']'));
    inside.map_or(text, |(chosen, _)| chosen).to_owned()
}

/// Volumes over a network, and disks that a hypervisor makes up, by what they say of themselves.
const NETWORK_MODELS: [&str; 4] =
    ["Amazon Elastic Block Store", "PersistentDisk", "nvme_card-pd", "Alibaba Cloud Elastic Block"];
const VIRTUAL_MODELS: [&str; 5] = ["QEMU", "Virtual disk", "Virtual Disk", "VMware Virtual", "VBOX HARDDISK"];

fn kind_of(device: &Device, model: &str) -> &'static str {
    let name = device.name.as_str();
    let named = |prefixes: &[&str]| {
        prefixes.iter().any(|prefix| {
            let rest = name.strip_prefix(prefix);
            rest.and_then(|rest| rest.chars().next()).is_some_and(|next| next.is_ascii_alphanumeric())
        })
    };
    let says = |models: &[&str]| models.iter().any(|known| model.contains(known));
    let path = device.directory.to_string_lossy();
    if device.layer == "loop" {
        return "file";
    }
    if named(&["nbd", "rbd", "drbd"]) || says(&NETWORK_MODELS) || path.contains("/session") {
        return "network";
    }
    if named(&["vd", "xvd"]) || path.contains("/virtio") || path.contains("/vbd-") || says(&VIRTUAL_MODELS) {
        return "virtual";
    }
    if named(&["zram", "ram", "pmem"]) {
        return "memory";
    }
    if named(&["nvme"]) {
        return "nvme";
    }
    match device.attribute("queue/rotational").as_deref() {
        Some("0") => "ssd",
        Some("1") => "hdd",
        _ => "unknown",
    }
}

#[cfg(test)]
mod tests;
