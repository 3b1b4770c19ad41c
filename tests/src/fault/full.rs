//! A disk without a free block.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Leaves no block free on a filesystem until it is dropped.
#[derive(Debug)]
pub struct FullDisk {
    filler: PathBuf,
}

impl FullDisk {
    /// Takes all free blocks of the filesystem that `directory` is on, those kept for root included.
    ///
    /// # Errors
    /// When the filler can't be made.
    pub fn fill(directory: &Path) -> Result<Self> {
        let filler = directory.join("filler");
        let mut file = File::create(&filler).with_context(|| filler.display().to_string())?;
        let disk = Self { filler };
        let mut size: i64 = 1 << 30;
        let mut end = 0;
        // Blocks are only set aside: nothing is written, however large the disk.
        while size >= 4 << 10 {
            match allocate(&file, end, size) {
                Ok(()) => end += size,
                Err(error) if error.raw_os_error() == Some(libc::ENOSPC) => size /= 2,
                Err(error) => return Err(error).context("set blocks aside"),
            }
        }
        // What is left are blocks that a filesystem keeps for extent trees and the like.
        use std::io::Seek;
        file.seek(io::SeekFrom::Start(end.cast_unsigned()))?;
        for size in [1 << 12, 1] {
            while file.write_all(&vec![0xff; size]).is_ok() {}
        }
        Ok(disk)
    }
}

impl Drop for FullDisk {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.filler) {
            eprintln!("remove {}: {error}", self.filler.display());
        }
    }
}

fn allocate(file: &File, offset: i64, length: i64) -> io::Result<()> {
    // SAFETY: plain numbers and a descriptor that is open for the call.
    match unsafe { libc::fallocate(file.as_raw_fd(), 0, offset, length) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{Disk, Medium};
    use crate::place::Place;
    use crate::tools;

    #[test]
    fn a_full_disk_takes_nothing_and_has_room_again_afterwards() {
        if !tools::is_root() {
            println!("skipped: needs root for a loop device");
            return;
        }
        let place = Place::new().unwrap();
        let disk = Disk::with_size(place.path(), Medium::Ext4, false, 64 << 20).unwrap();
        let file = disk.path().join("file");
        let full = FullDisk::fill(disk.path()).unwrap();
        let error = fs::write(&file, vec![1; 8 << 10]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        drop(full);
        fs::write(&file, vec![1; 8 << 10]).unwrap();
    }
}
