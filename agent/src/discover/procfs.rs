//! Reading `/proc`, or a recorded copy of it below another root.

use std::fs;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Kernel threads carry this bit in the flags of `/proc/PID/stat`; they never become anything else.
const PF_KTHREAD: u64 = 0x0020_0000;

/// Most bytes read of a command line or environment; the kernel itself allows far more.
const TEXT_LIMIT: u64 = 1 << 20;

/// Most files are shorter. The kernel names no size for them, and with less room each is read in many small steps.
const USUAL_BYTES: usize = 4 << 10;

/// A `/proc` tree.
#[derive(Debug, Clone)]
pub struct ProcFs {
    root: PathBuf,
}

/// What `/proc/PID/stat` says and discovery needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stat {
    /// Command name, as the kernel truncates it.
    pub comm: String,
    /// State letter.
    pub state: char,
    /// `PF_*` flags.
    pub flags: u64,
    /// Field 22: start in clock ticks since boot.
    pub start_ticks: u64,
    /// Field 48: where the arguments lie, which is elsewhere each time the process executes a program. 0 where this process
    /// has no right to know.
    pub image: u64,
}

impl Stat {
    /// True for a kernel thread.
    pub const fn is_kernel_thread(&self) -> bool {
        self.flags & PF_KTHREAD != 0
    }

    /// True when the process has ended and only waits to be reaped.
    pub const fn is_dead(&self) -> bool {
        matches!(self.state, 'Z' | 'X' | 'x')
    }

    /// Whether this is the process that started then, and still runs that image as far as is known.
    pub const fn is(&self, start_ticks: u64, image: u64) -> bool {
        self.start_ticks == start_ticks && (self.image == image || self.image == 0 || image == 0)
    }

    /// From the text of the file. `None` when it is not of that form.
    pub fn parse(text: &str) -> Option<Self> {
        // The command may hold blanks and parentheses: it ends at the last one.
        let open = text.find('(')?;
        let close = text.rfind(')').filter(|close| *close > open)?;
        let mut fields = text[close + 1..].split_ascii_whitespace();
        let state = fields.next()?.chars().next()?;
        let flags = fields.nth(5)?.parse().ok()?;
        let start_ticks = fields.nth(12)?.parse().ok()?;
        let image = fields.nth(25).and_then(|field| field.parse().ok()).unwrap_or(0);
        Some(Self { comm: text[open + 1..close].to_owned(), state, flags, start_ticks, image })
    }
}

impl ProcFs {
    /// The tree below `root`, `/proc` on a live system.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Path of a file of a process.
    pub fn path(&self, pid: u32, file: &str) -> PathBuf {
        self.root.join(pid.to_string()).join(file)
    }

    /// The kernel's boot id, 16 bytes.
    ///
    /// # Errors
    /// When it can't be read or is no UUID.
    pub fn boot_id(&self) -> io::Result<[u8; 16]> {
        let text = fs::read_to_string(self.root.join("sys/kernel/random/boot_id"))?;
        let id = uuid::Uuid::parse_str(text.trim()).map_err(io::Error::other)?;
        Ok(id.into_bytes())
    }

    /// Ids of all processes.
    ///
    /// # Errors
    /// When the directory can't be listed.
    pub fn pids(&self, into: &mut Vec<u32>) -> io::Result<()> {
        into.clear();
        for entry in fs::read_dir(&self.root)? {
            let name = entry?.file_name();
            into.extend(name.to_str().and_then(|name| name.parse::<u32>().ok()));
        }
        Ok(())
    }

    /// The process's `stat`; `None` when it is gone or not of that form.
    pub fn stat(&self, pid: u32) -> Option<Stat> {
        Stat::parse(&String::from_utf8_lossy(&self.read(pid, "stat").ok()?))
    }

    /// A small file of the process in full.
    ///
    /// # Errors
    /// When it can't be read.
    pub fn read(&self, pid: u32, file: &str) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::with_capacity(USUAL_BYTES);
        // A process may say (prctl(2), PR_SET_MM) that all of its memory is its command line.
        fs::File::open(self.path(pid, file))?.take(TEXT_LIMIT).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// A file of the tree that belongs to no process, such as `locks`.
    ///
    /// # Errors
    /// When it can't be read.
    pub fn read_root(&self, file: &str) -> io::Result<String> {
        fs::read_to_string(self.root.join(file))
    }

    /// The user that the process runs as; `None` when it is gone.
    pub fn user(&self, pid: u32) -> Option<u32> {
        fs::metadata(self.root.join(pid.to_string())).ok().map(|metadata| metadata.uid())
    }

    /// Target of one of the process's links (`exe`, `cwd`, `ns/net`).
    pub fn link(&self, pid: u32, name: &str) -> Option<PathBuf> {
        fs::read_link(self.path(pid, name)).ok()
    }

    /// A path of the process's own view, as this process can open it.
    pub fn through_root(&self, pid: u32, path: &Path) -> PathBuf {
        let inside = path.strip_prefix("/").unwrap_or(path);
        let root = self.path(pid, "root");
        // Outside a container both views are one, and the plain path reads better and works without privileges.
        match (fs::metadata(&root), fs::metadata("/")) {
            (Ok(theirs), Ok(ours)) if (theirs.dev(), theirs.ino()) == (ours.dev(), ours.ino()) => {
                Path::new("/").join(inside)
            }
            (Err(_), _) => Path::new("/").join(inside),
            _ => root.join(inside),
        }
    }

    /// True when the process shares this process's network.
    pub fn shares_network(&self, pid: u32) -> bool {
        let ours = fs::read_link(self.root.join("self/ns/net"));
        let theirs = fs::read_link(self.path(pid, "ns/net"));
        !matches!((ours, theirs), (Ok(ours), Ok(theirs)) if ours != theirs)
    }
}
