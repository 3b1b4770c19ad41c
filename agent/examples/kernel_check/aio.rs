//! Writes that the kernel makes one request of after they were two: by io_submit(2), which hands several over at once.

use std::{
    fs::OpenOptions,
    os::{fd::AsRawFd as _, unix::fs::OpenOptionsExt as _},
    path::Path,
};

use anyhow::{Result, ensure};

/// Bytes of one write.
pub const WRITE_BYTES: u64 = 4096;

/// Writes of a round: the first and the last are a request each until the one between them joins them.
pub const WRITES: usize = 3;

/// `struct iocb` (include/uapi/linux/aio_abi.h) of a little-endian machine.
#[repr(C)]
#[derive(Clone, Copy)]
struct Command {
    data: u64,
    key: u32,
    flags: u32,
    operation: u16,
    priority: u16,
    descriptor: u32,
    buffer: u64,
    bytes: u64,
    offset: u64,
    reserved: u64,
    result_flags: u32,
    event_descriptor: u32,
}

/// `struct io_event`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Event {
    data: u64,
    object: u64,
    result: i64,
    result2: i64,
}

#[repr(align(4096))]
struct Aligned([u8; WRITE_BYTES as usize]);

fn check(result: libc::c_long) -> Result<libc::c_long> {
    ensure!(result >= 0, "{}", std::io::Error::last_os_error());
    Ok(result)
}

/// In each round writes three blocks of a device that follow each other, the middle one last, and waits for them.
///
/// # Errors
/// When the device can't be written to in this way.
pub fn merged_writes(device: &Path, rounds: u64) -> Result<()> {
    const PWRITE: u16 = 1;
    let file = OpenOptions::new().write(true).custom_flags(libc::O_DIRECT).open(device)?;
    let block = Aligned([b'z'; WRITE_BYTES as usize]);
    let mut context: libc::c_ulong = 0;
    // SAFETY: a place for the answer.
    check(unsafe { libc::syscall(libc::SYS_io_setup, WRITES, &raw mut context) })?;
    for round in 0..rounds {
        let command = |position: u64| Command {
            data: 0,
            key: 0,
            flags: 0,
            operation: PWRITE,
            priority: 0,
            descriptor: file.as_raw_fd().cast_unsigned(),
            buffer: block.0.as_ptr() as u64,
            bytes: WRITE_BYTES,
            offset: (round * (WRITES as u64 + 1) + position) * WRITE_BYTES,
            reserved: 0,
            result_flags: 0,
            event_descriptor: 0,
        };
        let commands = [0, 2, 1].map(command);
        let pointers = commands.each_ref().map(std::ptr::from_ref);
        // SAFETY: pointers to commands that are alive, as is the block, until all of them have ended below.
        let taken = check(unsafe { libc::syscall(libc::SYS_io_submit, context, WRITES, pointers.as_ptr()) })?;
        ensure!(taken == WRITES as libc::c_long, "{taken} of {WRITES} writes taken");
        let mut events = [Event::default(); WRITES];
        let no_limit = std::ptr::null::<libc::timespec>();
        // SAFETY: room for as many events as are asked for.
        let ended = check(unsafe {
            libc::syscall(libc::SYS_io_getevents, context, WRITES, WRITES, events.as_mut_ptr(), no_limit)
        })?;
        let whole = events.iter().all(|event| event.result == WRITE_BYTES as i64);
        ensure!(ended == WRITES as libc::c_long && whole, "a write failed");
    }
    // SAFETY: takes the context, of which nothing is under way any more.
    check(unsafe { libc::syscall(libc::SYS_io_destroy, context) })?;
    Ok(())
}
