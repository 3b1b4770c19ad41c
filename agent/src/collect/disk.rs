//! Space, inodes and device activity of the disks below etcd's data and WAL directories.

use std::collections::HashMap;
use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::procfile::ProcFile;
use super::{CollectError, Collector};
use crate::clock::Reading;
use crate::discover::{EtcdProcess, ProcessId};
use crate::fact::{Fact, Samples, Series};
use crate::hub::Note;

/// Space changes slowly: it is asked for on every so many collections.
const SPACE_EVERY: u64 = 10;

/// Columns of `/proc/diskstats` behind the device name (`Documentation/admin-guide/iostats.rst`), as series with the
/// factor to their unit.
const COLUMNS: [(usize, &str, &str, f64); 9] = [
    (0, "etcdmon_disk_operations_total", "read", 1.0),
    (2, "etcdmon_disk_bytes_total", "read", 512.0),
    (3, "etcdmon_disk_operation_seconds_total", "read", 0.001),
    (4, "etcdmon_disk_operations_total", "write", 1.0),
    (6, "etcdmon_disk_bytes_total", "write", 512.0),
    (7, "etcdmon_disk_operation_seconds_total", "write", 0.001),
    (9, "etcdmon_disk_busy_seconds_total", "", 0.001),
    (15, "etcdmon_disk_operations_total", "flush", 1.0),
    (16, "etcdmon_disk_operation_seconds_total", "flush", 0.001),
];

#[derive(Debug)]
struct Directory {
    path: PathBuf,
    role: &'static str,
    space: [Arc<Series>; 4],
    activity: HashMap<String, Vec<Arc<Series>>>,
}

impl Directory {
    fn new(path: &Path, role: &'static str) -> Self {
        let gauge = |name: &str| Series::gauge(name, &[("directory", role)]);
        Self {
            path: path.to_owned(),
            role,
            space: [
                gauge("etcdmon_disk_size_bytes"),
                gauge("etcdmon_disk_available_bytes"),
                gauge("etcdmon_disk_inodes"),
                gauge("etcdmon_disk_available_inodes"),
            ],
            activity: HashMap::new(),
        }
    }

    fn add_space(&self, values: &mut Vec<(Arc<Series>, f64)>) -> Result<(), CollectError> {
        let error = |source| CollectError::File { path: self.path.display().to_string(), source };
        let path = CString::new(self.path.as_os_str().as_bytes())
            .map_err(|nul| error(std::io::Error::other(nul)))?;
        // SAFETY: all zeros is a valid statvfs.
        let mut space: libc::statvfs = unsafe { std::mem::zeroed() };
        // SAFETY: the path is a C string and `space` is valid, both for the duration of the call.
        if unsafe { libc::statvfs(path.as_ptr(), &raw mut space) } != 0 {
            return Err(error(std::io::Error::last_os_error()));
        }
        let numbers = [
            space.f_blocks as f64 * space.f_frsize as f64,
            space.f_bavail as f64 * space.f_frsize as f64,
            space.f_files as f64,
            space.f_favail as f64,
        ];
        values.extend(self.space.iter().cloned().zip(numbers));
        Ok(())
    }

    fn add_activity(&mut self, diskstats: &str, values: &mut Vec<(Arc<Series>, f64)>) {
        let Ok(metadata) = std::fs::metadata(&self.path) else { return };
        let Some((name, columns)) = device_line(diskstats, metadata.dev()) else { return };
        let role = self.role;
        let series = self.activity.entry(name.to_owned()).or_insert_with(|| {
            let named = |(_, series, operation, _): &(usize, &str, &str, f64)| {
                let mut labels = vec![("device", name), ("directory", role)];
                if !operation.is_empty() {
                    labels.push(("operation", operation));
                }
                Series::counter(series, &labels)
            };
            COLUMNS.iter().map(named).collect()
        });
        for ((column, _, _, factor), series) in COLUMNS.iter().zip(series) {
            if let Some(number) = columns.get(*column) {
                values.push((Arc::clone(series), *number as f64 * factor));
            }
        }
    }
}

/// Name and counters of the device with this number. Filesystems without a block device of their own have none.
fn device_line(diskstats: &str, device: u64) -> Option<(&str, Vec<u64>)> {
    let (major, minor) = (libc::major(device), libc::minor(device));
    diskstats.lines().find_map(|line| {
        let mut words = line.split_ascii_whitespace();
        let found = words.next()?.parse() == Ok(major) && words.next()?.parse() == Ok(minor);
        let name = words.next()?;
        found.then(|| (name, words.map_while(|word| word.parse().ok()).collect()))
    })
}

/// The collector of one member's disks.
#[derive(Debug)]
pub struct DiskCollector {
    id: ProcessId,
    period: Duration,
    diskstats: ProcFile,
    directories: Vec<Directory>,
    round: u64,
}

impl DiskCollector {
    /// For the directories of a process. The WAL has series of its own even on the same device, so that a rule need
    /// not know where it is.
    pub fn new(process: &EtcdProcess, period: Duration) -> Self {
        Self {
            id: process.id,
            period,
            diskstats: ProcFile::new("/proc/diskstats"),
            directories: vec![
                Directory::new(&process.data_dir_here, "data"),
                Directory::new(&process.wal_dir_here, "wal"),
            ],
            round: 0,
        }
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
        let mut values = Vec::new();
        let diskstats = self.diskstats.read()?;
        let mut outcome = Ok(());
        for directory in &mut self.directories {
            directory.add_activity(diskstats, &mut values);
            if self.round.is_multiple_of(SPACE_EVERY) {
                outcome = outcome.and(directory.add_space(&mut values));
            }
        }
        self.round += 1;
        // A WAL directory that etcd has not made yet must not cost the rest.
        if values.is_empty() {
            outcome?;
        }
        Ok(vec![Note::Facts(vec![Fact::Samples(Samples {
            process: Some(self.id),
            mono_ns: now.mono_ns,
            values,
        })])])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DISKSTATS: &str =
        "   7       0 loop0 11 0 88 4 20 0 160 9 0 12 13 0 0 0 0 5 6\n 254       0 vda 1 2 3\n";

    #[test]
    fn a_loop_device_is_found_by_its_number() {
        let (name, columns) = device_line(DISKSTATS, libc::makedev(7, 0)).expect("listed");
        assert_eq!((name, columns.len(), columns[4], columns[15]), ("loop0", 17, 20, 5));
        assert!(device_line(DISKSTATS, libc::makedev(0, 40)).is_none());
        assert!(device_line("garbage\n7\n7 0\n", libc::makedev(7, 0)).is_none());
    }

    #[test]
    fn an_old_kernel_without_flush_columns_gives_the_others() {
        let mut directory = Directory::new(Path::new("/"), "data");
        let device = std::fs::metadata("/").expect("root").dev();
        let line = format!("{} {} vda 1 2 3 4 5 6 7 8 9 10 11", libc::major(device), libc::minor(device));
        let mut values = Vec::new();
        directory.add_activity(&line, &mut values);
        assert_eq!(values.len(), 7);
        assert_eq!(values[1].1, 3.0 * 512.0);
    }

    #[test]
    fn space_of_the_root_is_known_and_of_nothing_is_an_error() {
        let mut values = Vec::new();
        Directory::new(Path::new("/"), "data").add_space(&mut values).expect("statvfs");
        assert!(values[0].1 >= values[1].1 && values[0].1 > 0.0);
        assert!(Directory::new(Path::new("/none"), "data").add_space(&mut values).is_err());
    }
}
