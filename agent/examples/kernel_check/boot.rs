//! What an init has to do before anything works, and the end of the machine.

use std::{
    ffi::CString,
    io,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

/// Filesystems that every program expects: type, where.
const MOUNTS: [(&str, &str); 7] = [
    ("proc", "/proc"),
    ("sysfs", "/sys"),
    ("devtmpfs", "/dev"),
    ("tracefs", "/sys/kernel/tracing"),
    ("bpf", "/sys/fs/bpf"),
    ("cgroup2", "/sys/fs/cgroup"),
    ("tmpfs", "/tmp"),
];

/// Kernel modules in the order in which they can be loaded, one file name a line.
const MODULES: &str = "/modules/order";

/// How long a disk may take to show up on a slow machine.
const DISK_WITHIN: Duration = Duration::from_secs(60);

/// Mounts what every program expects.
///
/// # Errors
/// When one of them can't be.
pub fn mount_all() -> Result<()> {
    MOUNTS.iter().try_for_each(|(kind, at)| {
        std::fs::create_dir_all(at).with_context(|| format!("create {at}"))?;
        mount("none", at, kind)
    })
}

/// Mounts a filesystem.
///
/// # Errors
/// When the kernel refuses.
pub fn mount(source: &str, at: &str, kind: &str) -> Result<()> {
    let [from, to, filesystem] = [source, at, kind].map(CString::new);
    let (from, to, filesystem) = (from?, to?, filesystem?);
    // SAFETY: terminated strings; no data.
    let result = unsafe { libc::mount(from.as_ptr(), to.as_ptr(), filesystem.as_ptr(), 0, std::ptr::null()) };
    if result != 0 {
        return Err(io::Error::last_os_error()).with_context(|| format!("mount {kind} at {at}"));
    }
    Ok(())
}

/// Loads the kernel modules that came along, and says which could not be, and why.
///
/// # Errors
/// When there is no list of them.
pub fn load_modules() -> Result<Vec<String>> {
    let order = std::fs::read_to_string(MODULES).with_context(|| format!("read {MODULES}"))?;
    let refused = order.lines().filter_map(|file| load_module(file).err());
    Ok(refused.map(|error| format!("{error:#}")).collect())
}

fn load_module(file: &str) -> Result<()> {
    let path = Path::new(MODULES).with_file_name(file);
    let bytes = std::fs::read(&path).with_context(|| format!("read {}", path.display()))?;
    // SAFETY: the kernel copies as many bytes as it is told, and a terminated string.
    let result = unsafe { libc::syscall(libc::SYS_init_module, bytes.as_ptr(), bytes.len(), c"".as_ptr()) };
    match io::Error::last_os_error() {
        _ if result == 0 => Ok(()),
        error if error.raw_os_error() == Some(libc::EEXIST) => Ok(()),
        error => Err(error).with_context(|| format!("load module {file}")),
    }
}

/// Waits for a file such as a disk's.
///
/// # Errors
/// When it does not come.
pub fn wait_for(file: &str) -> Result<()> {
    let begin = Instant::now();
    while !Path::new(file).exists() {
        anyhow::ensure!(begin.elapsed() < DISK_WITHIN, "{file} does not come");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Ends the machine: the emulator is told not to begin anew.
pub fn end() -> ! {
    loop {
        // SAFETY: takes a number, and nothing.
        unsafe {
            libc::sync();
            libc::reboot(libc::RB_AUTOBOOT);
        }
        std::thread::sleep(Duration::from_secs(1));
    }
}
