//! Activity, space and facts of the disks below etcd's data and WAL directories.
//!
//! Activity is read every time from `/sys/dev/block/*/stat`: of the device that the filesystem is on (`layer="volume"`) and of
//! the disks at the bottom of its stack (`layer="disk"`), which is where others are in the way. Counters are raw, so rates, await and
//! utilisation follow for any window. What the directories lie on is looked at now and then ([`survey`]), stored as a series with
//! the value 1 and, when it changes, as an event with all the details.

use std::path::Path;
use std::time::Duration;

pub mod device;
pub mod mount;
pub mod survey;

use self::device::{Facts, Stack};
use self::survey::{Ground, Sources, Space, Surveyed, Surveyor};
use super::procfile::ProcFile;
use super::sheet::{Sheet, Slot};
use super::{CollectError, Collector};
use crate::clock::Reading;
use crate::discover::{EtcdProcess, ProcFs, ProcessId};
use crate::fact::{Event, Fact};
use crate::hub::Note;

/// Space changes slowly: it is asked for on every so many collections.
const SPACE_EVERY: u64 = 10;

/// What a directory lies on hardly ever changes.
const GROUND_EVERY: u64 = 60;

/// How long a survey is waited for. It takes a millisecond, unless the disk hangs, or the machine of a test is very busy.
const PATIENCE: Duration = if cfg!(test) { Duration::from_secs(20) } else { Duration::from_millis(100) };

/// Columns of `/sys/dev/block/*/stat` (`Documentation/block/stat.rst`), as series with the factor to their unit.
const COLUMNS: [(usize, &str, &str, f64); 14] = [
    (0, "etcdmon_disk_operations_total", "read", 1.0),
    (2, "etcdmon_disk_bytes_total", "read", 512.0),
    (3, "etcdmon_disk_operation_seconds_total", "read", 0.001),
    (4, "etcdmon_disk_operations_total", "write", 1.0),
    (6, "etcdmon_disk_bytes_total", "write", 512.0),
    (7, "etcdmon_disk_operation_seconds_total", "write", 0.001),
    (8, "etcdmon_disk_operations_in_flight", "", 1.0),
    (9, "etcdmon_disk_busy_seconds_total", "", 0.001),
    (10, "etcdmon_disk_queue_seconds_total", "", 0.001),
    (11, "etcdmon_disk_operations_total", "discard", 1.0),
    (13, "etcdmon_disk_bytes_total", "discard", 512.0),
    (14, "etcdmon_disk_operation_seconds_total", "discard", 0.001),
    (15, "etcdmon_disk_operations_total", "flush", 1.0),
    (16, "etcdmon_disk_operation_seconds_total", "flush", 0.001),
];

/// The column that is no counter.
const IN_FLIGHT: usize = 8;

/// Numbers of `stat`; columns that an older kernel does not have are missing at the end.
fn parse_stat(text: &str) -> Vec<u64> {
    text.split_ascii_whitespace().map_while(|word| word.parse().ok()).collect()
}

/// Counters of one device.
#[derive(Debug)]
struct Activity {
    stat: ProcFile,
    slots: Box<[Slot]>,
}

impl Activity {
    fn new(sheet: &mut Sheet, device: &device::Device, role: &str, layer: &str) -> Self {
        let name = device.name.as_str();
        let slots = sheet.keyed(&format!("activity {role} {layer} {name}"), |sheet| {
            let add = |(column, series, operation, _): &(usize, &str, &str, f64)| {
                let mut labels = vec![("device", name), ("directory", role), ("layer", layer)];
                if !operation.is_empty() {
                    labels.push(("operation", operation));
                }
                if *column == IN_FLIGHT {
                    sheet.gauge(series, &labels)
                } else {
                    sheet.counter(series, &labels)
                }
            };
            COLUMNS.iter().map(add).collect()
        });
        Self { stat: ProcFile::new(device.directory.join("stat")), slots }
    }

    fn add(&mut self, sheet: &mut Sheet) -> Result<(), CollectError> {
        let numbers = parse_stat(self.stat.read()?);
        if numbers.is_empty() {
            return Err(self.stat.form_error());
        }
        let value = |(column, _, _, factor): &(usize, &str, &str, f64)| {
            numbers.get(*column).map(|number| *number as f64 * factor)
        };
        sheet.set_all(&self.slots, COLUMNS.iter().map(value));
        Ok(())
    }
}

/// One directory of etcd.
#[derive(Debug)]
struct Directory {
    role: &'static str,
    path: String,
    space: [Slot; 6],
    other_filesystems: Slot,
    number: Option<device::Number>,
    activity: Vec<Activity>,
    ground: Option<Ground>,
    info: Vec<Slot>,
}

impl Directory {
    fn new(sheet: &mut Sheet, path: &Path, role: &'static str) -> Self {
        let mut gauge = |name: &str| sheet.gauge(name, &[("directory", role)]);
        Self {
            role,
            path: path.display().to_string(),
            space: [
                gauge("etcdmon_disk_size_bytes"),
                gauge("etcdmon_disk_available_bytes"),
                gauge("etcdmon_disk_reserved_bytes"),
                gauge("etcdmon_disk_inodes"),
                gauge("etcdmon_disk_available_inodes"),
                gauge("etcdmon_disk_read_only"),
            ],
            other_filesystems: gauge("etcdmon_disk_other_filesystems"),
            number: None,
            activity: Vec::new(),
            ground: None,
            info: Vec::new(),
        }
    }

    fn set_space(&self, sheet: &mut Sheet, space: Space) {
        let read_only = f64::from(u8::from(space.read_only));
        let values = [
            space.size_bytes,
            space.available_bytes,
            space.reserved_bytes,
            space.inodes,
            space.available_inodes,
            read_only,
        ];
        sheet.set_all(&self.space, values.map(Some));
    }

    /// Takes what a survey found; true when what the directory lies on is not what it was.
    fn stand_on(&mut self, sheet: &mut Sheet, found: Surveyed) -> bool {
        self.set_space(sheet, found.space);
        self.number = Some(found.number);
        let Some(ground) = found.ground else { return false };
        if self.ground.as_ref() == Some(&ground) {
            self.info.iter().for_each(|slot| sheet.set(*slot, 1.0));
            sheet.set(self.other_filesystems, ground.other_filesystems as f64);
            return false;
        }
        for slot in self.info.drain(..) {
            sheet.set(slot, 0.0);
        }
        sheet.set(self.other_filesystems, ground.other_filesystems as f64);
        let disks = ground.disks.iter();
        self.info = disks.flat_map(|(name, facts)| info(sheet, self.role, &ground, name, facts)).collect();
        self.info.iter().for_each(|slot| sheet.set(*slot, 1.0));
        self.activity = activities(sheet, self.role, &ground.stack);
        self.ground = Some(ground);
        true
    }

    fn details(&self, shares_disk: Option<bool>) -> serde_json::Value {
        let Some(ground) = &self.ground else { return serde_json::Value::Null };
        let disks = ground.disks.iter().map(|(name, facts)| {
            serde_json::json!({
                "device": name, "kind": facts.kind, "model": facts.model, "scheduler": facts.scheduler,
                "write_cache": facts.write_cache, "queue_requests": facts.queue_requests,
                "logical_block_bytes": facts.logical_block_bytes,
                "physical_block_bytes": facts.physical_block_bytes, "size_bytes": facts.size_bytes,
                "writeback_throttle_us": facts.writeback_throttle_us,
            })
        });
        serde_json::json!({
            "directory": self.role, "path": self.path, "filesystem": ground.filesystem,
            "source": ground.source, "options": ground.options, "stack": layers(&ground.stack),
            "disks": disks.collect::<Vec<_>>(), "other_filesystems": ground.other_filesystems,
            "wal_shares_disk": shares_disk, "devices_left_out": ground.stack.left_out,
        })
    }
}

/// `dm-3 lvm`, `md0 raid1`, `sda disk`: from the top.
fn layers(stack: &Stack) -> Vec<String> {
    stack.devices.iter().map(|device| format!("{} {}", device.name, device.layer)).collect()
}

/// The series that says what a disk is.
fn info(sheet: &mut Sheet, role: &str, ground: &Ground, name: &str, facts: &Facts) -> Vec<Slot> {
    let stack = ground.stack.devices.iter().map(|device| device.layer.as_str()).collect::<Vec<_>>().join(",");
    let number = |number: Option<u64>| number.map(|number| number.to_string()).unwrap_or_default();
    let (queue, block) = (number(facts.queue_requests), number(facts.physical_block_bytes));
    let labels = [
        ("device", name),
        ("directory", role),
        ("filesystem", &ground.filesystem),
        ("kind", facts.kind),
        ("model", &facts.model),
        ("physical_block_bytes", &block),
        ("queue_requests", &queue),
        ("scheduler", &facts.scheduler),
        ("stack", &stack),
        ("write_cache", &facts.write_cache),
    ];
    let key = labels.map(|(_, value)| value).join("\n");
    sheet.keyed(&format!("info {key}"), |sheet| vec![sheet.gauge("etcdmon_disk_info", &labels)]).into_vec()
}

/// What the filesystem is on, and the disks at the bottom where they are others.
fn activities(sheet: &mut Sheet, role: &str, stack: &Stack) -> Vec<Activity> {
    let volume = stack.devices.first().map(|device| Activity::new(sheet, device, role, "volume"));
    let mut all: Vec<Activity> = volume.into_iter().collect();
    for disk in stack.devices.iter().skip(1).filter(|device| device.is_bottom) {
        all.push(Activity::new(sheet, disk, role, "disk"));
    }
    all
}

/// The collector of one member's disks.
#[derive(Debug)]
pub struct DiskCollector {
    id: ProcessId,
    period: Duration,
    sheet: Sheet,
    directories: [Directory; 2],
    surveyor: Surveyor,
    waiting_since: Option<u64>,
    waited: Slot,
    shares_disk: Slot,
    round: u64,
    ground_due: bool,
}

impl DiskCollector {
    /// For the directories of a process. The WAL has series of its own even on the same device, so that a rule need
    /// not know where it is.
    pub fn new(proc: &ProcFs, process: &EtcdProcess, period: Duration) -> Self {
        let file = |pid, name: &str| proc.path(pid, name);
        let sources = Sources {
            sys: "/sys".into(),
            mounts: file(process.id.pid, "mountinfo"),
            root: file(process.id.pid, "root"),
            node_mounts: [file(1, "mountinfo"), file(std::process::id(), "mountinfo")],
            filesystems: "/proc/fs".into(),
        };
        let paths = vec![process.data_dir_here.clone(), process.wal_dir_here.clone()];
        Self::over(sources, process.id, paths, period)
    }

    fn over(sources: Sources, id: ProcessId, paths: Vec<std::path::PathBuf>, period: Duration) -> Self {
        let mut sheet = Sheet::new(period);
        let roles = ["data", "wal"];
        let directories = [0, 1].map(|index| Directory::new(&mut sheet, &paths[index], roles[index]));
        Self {
            id,
            period,
            directories,
            waiting_since: None,
            waited: sheet.gauge("etcdmon_disk_survey_wait_seconds", &[]),
            shares_disk: sheet.gauge("etcdmon_disk_wal_shares_disk", &[]),
            surveyor: Surveyor::new(sources, paths),
            sheet,
            round: 0,
            ground_due: true,
        }
    }

    /// Begins a survey when one is due, and takes its answer when it has come.
    async fn survey(&mut self, now: Reading) -> Result<Vec<Event>, CollectError> {
        self.ground_due |= self.round.is_multiple_of(GROUND_EVERY);
        if self.round.is_multiple_of(SPACE_EVERY) && !self.surveyor.is_waiting() {
            self.surveyor.begin(std::mem::take(&mut self.ground_due))?;
            self.waiting_since = Some(now.mono_ns);
        }
        self.round += 1;
        let Some(since_ns) = self.waiting_since else { return Ok(Vec::new()) };
        let Some(found) = self.surveyor.answer(PATIENCE).await else {
            // A disk that does not answer a question about a directory: the time it takes is the fact.
            self.sheet.set(self.waited, now.mono_ns.saturating_sub(since_ns) as f64 / 1e9);
            return Ok(Vec::new());
        };
        self.waiting_since = None;
        self.sheet.set(self.waited, 0.0);
        self.found(found, now)
    }

    fn found(
        &mut self,
        found: Vec<Result<Surveyed, CollectError>>,
        now: Reading,
    ) -> Result<Vec<Event>, CollectError> {
        let mut changed = [false; 2];
        let mut outcome = Ok(());
        for (index, found) in found.into_iter().enumerate().take(2) {
            let directory = &mut self.directories[index];
            match found {
                Ok(found) => {
                    let moved = directory.number.is_some_and(|number| number != found.number);
                    // Another filesystem was mounted over it: what that lies on is asked at once.
                    self.ground_due |= moved || directory.ground.is_none() && found.ground.is_none();
                    changed[index] = directory.stand_on(&mut self.sheet, found);
                }
                // A WAL directory that etcd has not made yet must not cost the rest.
                Err(error) => outcome = Err(error),
            }
        }
        let [data, wal] = &self.directories;
        let grounds = data.ground.as_ref().zip(wal.ground.as_ref());
        let shares = grounds.map(|(data_ground, wal_ground)| {
            data.number == wal.number || data_ground.stack.shares_disk_with(&wal_ground.stack)
        });
        if let Some(shares) = shares {
            self.sheet.set(self.shares_disk, f64::from(u8::from(shares)));
        }
        let nothing_found = data.ground.is_none() && wal.ground.is_none();
        let told = [data, wal].into_iter().zip(changed).filter(|(_, changed)| *changed);
        let event = |(directory, _): (&Directory, bool)| Event {
            process: Some(self.id),
            mono_ns: now.mono_ns,
            kind: "disk.facts",
            details: directory.details(shares),
        };
        let events = told.map(event).collect();
        if nothing_found { outcome.map(|()| events) } else { Ok(events) }
    }
}

impl Collector for DiskCollector {
    fn name(&self) -> &'static str {
        "disk"
    }

    fn period(&self) -> Duration {
        self.period
    }

    async fn collect(&mut self, now: Reading) -> Result<Vec<Note>, CollectError> {
        let surveyed = self.survey(now).await;
        let mut outcome = Ok(());
        for activity in self.directories.iter_mut().flat_map(|directory| &mut directory.activity) {
            outcome = outcome.and(activity.add(&mut self.sheet));
        }
        if outcome.is_err() {
            // A device went away: what is there now is looked at in the next survey.
            self.ground_due = true;
        }
        let mut notes = self.sheet.take(Some(self.id), now);
        match surveyed {
            Ok(events) if !events.is_empty() => {
                notes.push(Note::Facts(events.into_iter().map(Fact::Event).collect()))
            }
            Ok(_) => {}
            Err(error) => outcome = outcome.and(Err(error)),
        }
        // What was had is worth more than the error, unless there is nothing else.
        if notes.is_empty() { outcome.map(|()| notes) } else { Ok(notes) }
    }
}

#[cfg(test)]
mod tests;
