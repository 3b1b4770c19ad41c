//! Where a path is mounted, from `/proc/PID/mountinfo`: filesystem, options, and the device behind an anonymous number.

use std::path::{Path, PathBuf};

use super::device::Number;

/// One line of `mountinfo` (proc(5)).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// `st_dev` of what is below.
    pub number: Number,
    /// Which part of the filesystem is mounted.
    pub root: PathBuf,
    /// Where.
    pub point: PathBuf,
    /// Options of the mount, such as `rw,noatime`.
    pub options: String,
    /// Type, such as `ext4`.
    pub filesystem: String,
    /// What was mounted: a device, a pool, an export.
    pub source: String,
    /// Options of the filesystem.
    pub super_options: String,
}

impl Mount {
    /// From a line; `None` when it is not of that form.
    pub fn parse(line: &str) -> Option<Self> {
        let (before, after) = line.split_once(" - ")?;
        let mut words = before.split(' ').skip(2);
        let number = Number::parse(words.next()?)?;
        let (root, point, options) = (words.next()?, words.next()?, words.next()?);
        let mut words = after.split(' ');
        Some(Self {
            number,
            root: unescape(root).into(),
            point: unescape(point).into(),
            options: options.to_owned(),
            filesystem: words.next()?.to_owned(),
            source: unescape(words.next()?),
            super_options: words.next().unwrap_or_default().to_owned(),
        })
    }

    /// Of all lines that are of the form.
    pub fn parse_all(text: &str) -> Vec<Self> {
        text.lines().filter_map(Self::parse).collect()
    }

    /// The mount that a path is on: of those with its device number, the one whose mount point is nearest above it.
    pub fn holding<'a>(mounts: &'a [Self], path: &Path, number: Number) -> Option<&'a Self> {
        let above = mounts.iter().filter(|mount| mount.number == number);
        let nearest = |mount: &&Self| (path.starts_with(&mount.point), mount.point.components().count());
        above.max_by_key(nearest)
    }

    /// Options of mount and filesystem together, each once, in their order.
    pub fn all_options(&self) -> Vec<&str> {
        let mut all = Vec::new();
        for option in self.options.split(',').chain(self.super_options.split(',')) {
            if !option.is_empty() && !all.contains(&option) {
                all.push(option);
            }
        }
        all
    }

    /// True when it can't be written to.
    pub fn is_read_only(&self) -> bool {
        self.all_options().contains(&"ro")
    }
}

/// Blanks and backslashes are written as `\040` and the like.
fn unescape(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let octal = (*first == b'\\').then(|| after.get(..3)).flatten();
        let code = octal
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match code {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[3..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
27 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard
60 27 8:17 / /var/lib/etcd rw,noatime shared:9 master:1 - xfs /dev/sdb1 rw,attr2,inode64
61 27 0:44 /sub /var/my\\040data rw,relatime - btrfs /dev/sdc2 rw,space_cache
62 27 0:50 / /mnt rw - nfs4 server.example:/export ro,vers=4.2
garbage
63 27 a:b / /x rw - ext4 /dev/x rw
64 27 8:17 /etcd /elsewhere ro - xfs /dev/sdb1 rw
65 27 8:18 / /short rw
";

    #[test]
    fn a_path_is_on_the_mount_nearest_above_it() {
        let mounts = Mount::parse_all(TEXT);
        assert_eq!(mounts.len(), 5, "{mounts:?}");
        let number = Number { major: 8, minor: 17 };
        let found = Mount::holding(&mounts, Path::new("/var/lib/etcd/member/wal"), number).expect("mounted");
        assert_eq!((found.filesystem.as_str(), found.source.as_str()), ("xfs", "/dev/sdb1"));
        assert_eq!(found.all_options(), ["rw", "noatime", "attr2", "inode64"]);
        assert!(!found.is_read_only());
        assert!(Mount::holding(&mounts, Path::new("/"), Number { major: 9, minor: 9 }).is_none());
    }

    #[test]
    fn blanks_are_unescaped_and_an_option_of_the_filesystem_can_make_it_read_only() {
        let mounts = Mount::parse_all(TEXT);
        assert_eq!(mounts[2].point, Path::new("/var/my data"));
        assert!(mounts[3].is_read_only());
    }

    #[test]
    fn hostile_lines_are_passed_over() {
        let long = "x".repeat(100_000);
        for line in
            ["", " - ", "1 2 3:4", "1 2 3:4 / / - ", "1 2 3:4 / /\\9 rw -  ", &long, "\u{0}\u{1} - \u{2}"]
        {
            let _none_or_some = Mount::parse(line);
        }
        assert_eq!(unescape("\\"), "\\");
        assert_eq!(unescape("\\04"), "\\04");
        assert_eq!(unescape("a\\777b"), "a\\777b");
        assert_eq!(unescape("\\303\\244"), "ä");
    }
}
