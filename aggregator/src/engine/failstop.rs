//! Ends the engine's process at the first write to a file that fails.
//!
//! libchdb 26.7 goes on after a failed write as if it had succeeded: on a disk that runs full an insert is answered with
//! success although its part has empty files, with fsync or without, and a merge commits such a part and deletes what it
//! was made from. Rows are lost that were acknowledged, and every later query of the table fails. So its calls of
//! `write`, `pwrite64`, `fsync` and `fdatasync` come here: the dynamic linker finds the program's own symbols before
//! those of the C library. A failure ends the process before anybody is told of success. To the aggregator that is a
//! crash like any other: the insert is uncertain and resolved by asking, an unfinished part is removed at the next start,
//! the sources of a merge are still there.
//!
//! In the aggregator's own process these functions only pass the call on. Where writing is to be slow, it is made so here
//! ([`super::pace`]).

use std::ffi::{c_int, c_void};
use std::io;
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicBool, Ordering};

use super::pace;

/// Exit code of a process that could not write: `EX_IOERR` of sysexits.h.
pub const EXIT_CODE: i32 = 74;

static ARMED: AtomicBool = AtomicBool::new(false);

/// From now on a failed write to a regular file ends this process.
pub fn arm() {
    ARMED.store(true, Ordering::Relaxed);
}

/// The system call of this name.
///
/// # Safety
/// As for the C library's function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn write(file: c_int, bytes: *const c_void, count: usize) -> isize {
    // SAFETY: the caller's promise is handed on.
    let result = unsafe { libc::syscall(libc::SYS_write, file, bytes, count) };
    pace(file, judge(file, result as isize))
}

/// The system call of this name.
///
/// # Safety
/// As for the C library's function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pwrite64(file: c_int, bytes: *const c_void, count: usize, offset: i64) -> isize {
    // SAFETY: the caller's promise is handed on.
    let result = unsafe { libc::syscall(libc::SYS_pwrite64, file, bytes, count, offset) };
    pace(file, judge(file, result as isize))
}

/// The system call of this name.
#[unsafe(no_mangle)]
pub extern "C" fn fsync(file: c_int) -> c_int {
    // SAFETY: a number is passed.
    let result = unsafe { libc::syscall(libc::SYS_fsync, file) };
    judge(file, result as isize) as c_int
}

/// The system call of this name.
#[unsafe(no_mangle)]
pub extern "C" fn fdatasync(file: c_int) -> c_int {
    // SAFETY: a number is passed.
    let result = unsafe { libc::syscall(libc::SYS_fdatasync, file) };
    judge(file, result as isize) as c_int
}

fn pace(file: c_int, result: isize) -> isize {
    if let Ok(bytes @ 1..) = u64::try_from(result)
        && pace::is_limited()
        && is_regular(file)
    {
        pace::wrote(bytes);
    }
    result
}

fn judge(file: c_int, result: isize) -> isize {
    if result < 0 && ARMED.load(Ordering::Relaxed) {
        end_if_lost(file);
    }
    result
}

#[cold]
fn end_if_lost(file: c_int) {
    let error = io::Error::last_os_error();
    let code = error.raw_os_error().unwrap_or_default();
    if means_lost_bytes(code) && is_regular(file) {
        let path = std::fs::read_link(format!("/proc/self/fd/{file}")).unwrap_or_default();
        let text = format!(
            "error: write {}: {error}: ending, so that nothing is taken for stored\n",
            path.display()
        );
        // SAFETY: the buffer lives until after the call; `_exit` runs no destructors, which might write again.
        unsafe {
            libc::syscall(libc::SYS_write, libc::STDERR_FILENO, text.as_ptr(), text.len());
            libc::_exit(EXIT_CODE);
        }
    }
    // SAFETY: the address of this thread's errno is always valid; the calls above may have changed it.
    unsafe { *libc::__errno_location() = code };
}

/// Errors after which bytes are missing in a file. Others mean "again", or are the caller's fault.
const fn means_lost_bytes(code: i32) -> bool {
    matches!(code, libc::ENOSPC | libc::EDQUOT | libc::EIO | libc::EFBIG | libc::EROFS)
}

/// Sockets and pipes fail for reasons of their far end.
fn is_regular(file: c_int) -> bool {
    let mut about = MaybeUninit::<libc::stat>::uninit();
    // SAFETY: the kernel fills the structure, which lives until after the call.
    if unsafe { libc::fstat(file, about.as_mut_ptr()) } != 0 {
        return false;
    }
    // SAFETY: the call above succeeded.
    unsafe { about.assume_init() }.st_mode & libc::S_IFMT == libc::S_IFREG
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write;
    use std::os::unix::process::CommandExt;
    use std::process::Command;

    use super::*;

    /// Set for the copy of this test program that is to end itself.
    const IN_CHILD: &str = "ETCD_MONITOR_TEST_FAILSTOP";

    /// In a process of its own: a file may not grow, so that a write to it fails as on a full disk.
    #[test]
    fn a_failed_write_ends_an_armed_process_and_no_other() {
        if let Ok(mode) = std::env::var(IN_CHILD) {
            if mode == "armed" {
                arm();
            }
            let path = std::env::temp_dir().join(format!("failstop-{}", std::process::id()));
            let mut file = File::create(&path).unwrap();
            std::fs::remove_file(&path).unwrap();
            let error = file.write_all(b"x").unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EFBIG));
            return;
        }
        for (mode, ends) in [("armed", true), ("idle", false)] {
            let mut child = Command::new(std::env::current_exe().unwrap());
            child.args([
                "--exact",
                "engine::failstop::tests::a_failed_write_ends_an_armed_process_and_no_other",
            ]);
            child.env(IN_CHILD, mode).env("RUST_TEST_THREADS", "1");
            // SAFETY: signal and setrlimit are async-signal-safe, and the limit lives until after the call.
            unsafe {
                child.pre_exec(|| {
                    libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
                    let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
                    libc::setrlimit(libc::RLIMIT_FSIZE, &raw const none);
                    Ok(())
                });
            }
            let output = child.output().unwrap();
            assert_eq!(output.status.code() == Some(EXIT_CODE), ends, "{mode}: {output:?}");
            assert_eq!(String::from_utf8_lossy(&output.stderr).contains("error: write"), ends, "{mode}");
        }
    }
}
