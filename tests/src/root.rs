//! A root directory with nothing in it but what a program needs to run, and programs run inside as a service manager would.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::place::Place;
use crate::process;

/// Mounts what every service has, makes the rest read-only, and becomes the command. In a mount namespace of its own, so
/// that nothing is left to be cleaned up. Arguments: root, directory that stays writable, library to be shown or "-", number of
/// words of the command, the command, the program that the lab would run (left out), and its arguments.
const ENTER: &str = r#"
set -e
root=$1 writable=$2 library=$3 count=$4
shift 4
command=("${@:1:count}")
shift $((count + 1))
mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
mount --rbind /sys "$root/sys"
mount --bind "$writable" "$root$writable"
mount -t tmpfs tmpfs "$root/dev"
for node in null zero full random urandom; do
    touch "$root/dev/$node"
    mount --bind "/dev/$node" "$root/dev/$node"
done
if [ "$library" != - ]; then mount --bind "$library" "$root/usr/local/lib/libchdb.so"; fi
mount --bind "$root/var/lib" "$root/var/lib"
mount -o remount,bind,ro "$root"
umask 0077
cd "$root"
# A service starts with what its supervisor tells it, not with the environment of whoever is logged in.
for name in $(compgen -e); do
    case $name in PATH | NOTIFY_SOCKET | WATCHDOG_USEC) ;; *) unset "$name" ;; esac
done
exec chroot "$root" "${command[@]}" "$@"
"#;

/// The root directory.
#[derive(Debug)]
pub struct Root {
    path: PathBuf,
    writable: PathBuf,
}

impl Root {
    /// A root with these programs in `/usr/local/bin`, `setpriv` in `/bin`, and the shared libraries that they name.
    /// `writable` is seen inside under the same path as outside.
    ///
    /// # Errors
    /// When a program is missing.
    pub fn new(place: &Place, name: &str, programs: &[PathBuf], writable: PathBuf) -> Result<Self> {
        let path = place.directory(&format!("root-{name}"))?;
        for directory in ["usr/local/bin", "usr/local/lib", "usr/bin", "etc/etcd-monitor", "var/lib", "tmp"] {
            fs::create_dir_all(path.join(directory))?;
        }
        for directory in ["proc", "sys", "dev"] {
            fs::create_dir_all(path.join(directory))?;
        }
        symlink("usr/bin", path.join("bin"))?;
        fs::File::create(path.join("usr/local/lib/libchdb.so"))?;
        let root = Self { path, writable };
        fs::create_dir_all(root.inside(&root.writable))?;
        let setpriv = PathBuf::from(process::run(Command::new("sh").args(["-c", "command -v setpriv"]))?);
        root.install(&setpriv, "usr/bin")?;
        for program in programs {
            root.install(program, "usr/local/bin")?;
        }
        Ok(root)
    }

    /// Copies the shared libraries that a library names: itself it is shown by the launcher.
    ///
    /// # Errors
    /// When one is missing.
    pub fn install_needs_of(&self, library: &Path) -> Result<()> {
        libraries(library)?.iter().try_for_each(|needed| self.copy(needed))
    }

    /// Where an absolute path of the inside is on the outside.
    pub fn inside(&self, path: &Path) -> PathBuf {
        self.path.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// A directory that belongs to a user, as `StateDirectory=` makes it.
    ///
    /// # Errors
    /// When it can't be made.
    pub fn state_directory(&self, path: &Path, user: u32) -> Result<()> {
        let outside = self.inside(path);
        fs::create_dir_all(&outside)?;
        fs::set_permissions(&outside, fs::Permissions::from_mode(0o700))?;
        std::os::unix::fs::chown(&outside, Some(user), Some(user))
            .with_context(|| outside.display().to_string())
    }

    /// The words to put in front of a program of the lab so that `command` runs inside in its place.
    pub fn launcher(&self, library: Option<&Path>, command: &[String]) -> Vec<String> {
        let text = |path: &Path| path.display().to_string();
        let mut words: Vec<String> =
            ["unshare", "--mount", "--propagation", "private", "bash", "-c"].map(str::to_owned).into();
        words.extend([ENTER.to_owned(), "enter".to_owned(), text(&self.path), text(&self.writable)]);
        words.extend([library.map_or_else(|| "-".to_owned(), text), command.len().to_string()]);
        words.extend(command.iter().cloned());
        words
    }

    fn install(&self, program: &Path, directory: &str) -> Result<()> {
        let name = program.file_name().context("a program has a name")?;
        fs::copy(program, self.path.join(directory).join(name))
            .with_context(|| program.display().to_string())?;
        self.install_needs_of(program)
    }

    fn copy(&self, library: &Path) -> Result<()> {
        let inside = self.inside(library);
        if inside.exists() {
            return Ok(());
        }
        fs::create_dir_all(inside.parent().context("a library is in a directory")?)?;
        fs::copy(library, &inside).map(|_bytes| ()).with_context(|| library.display().to_string())
    }
}

/// The shared libraries that a program names, the loader included.
fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let listed = process::run(Command::new("ldd").arg(program))?;
    let paths = listed.split_ascii_whitespace().filter(|word| word.starts_with('/'));
    Ok(paths.map(|path| PathBuf::from(path.trim_end_matches(':'))).filter(|path| path != program).collect())
}
