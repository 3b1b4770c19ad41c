//! A BPF array of counters, mapped read-only: reading costs no syscall and never disturbs the programs.

use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd},
    ptr::NonNull,
    sync::atomic::{AtomicU64, Ordering},
};

/// Words of a mapped array.
#[derive(Debug)]
pub struct Mapped {
    words: NonNull<AtomicU64>,
    length: usize,
}

// SAFETY: the memory is only read, by atomic loads, and stays mapped until the value is dropped.
unsafe impl Send for Mapped {}
// SAFETY: as above.
unsafe impl Sync for Mapped {}

impl Mapped {
    /// Maps the first `length` words of an array with BPF_F_MMAPABLE.
    ///
    /// # Errors
    /// When the kernel refuses: before Linux 5.5, or for a smaller map.
    pub fn new(map: BorrowedFd<'_>, length: usize) -> io::Result<Self> {
        // SAFETY: a new shared mapping at an address of the kernel's choice; nothing else is touched.
        let address = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                length * 8,
                libc::PROT_READ,
                libc::MAP_SHARED,
                map.as_raw_fd(),
                0,
            )
        };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let words =
            NonNull::new(address.cast()).ok_or_else(|| io::Error::from(io::ErrorKind::OutOfMemory))?;
        Ok(Self { words, length })
    }

    /// The word at an index; 0 outside.
    pub fn word(&self, index: usize) -> u64 {
        if index >= self.length {
            return 0;
        }
        // SAFETY: within the mapping, aligned, and only ever changed by atomic adds.
        unsafe { self.words.add(index).as_ref() }.load(Ordering::Relaxed)
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `new`, which nothing refers to any more.
        unsafe { libc::munmap(self.words.as_ptr().cast(), self.length * 8) };
    }
}
