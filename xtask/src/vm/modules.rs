//! Kernel modules: which a machine needs, in the order in which they can be loaded. Debian's packages come without
//! `modules.dep`, so what a module depends on is read from itself.

use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::run;

/// What the machine needs, as far as the kernel does not have it built in. Some are asked for by names of algorithms only,
/// for which there is no modprobe in the machine.
const WANTED: [&str; 8] =
    ["virtio_pci", "virtio_blk", "crc32c_generic", "crc32c", "libcrc32c", "mq_deadline", "ext4", "xfs"];

/// A module, unpacked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Module {
    /// Name of its file in the machine.
    pub file: String,
    /// What the kernel loads.
    pub bytes: Vec<u8>,
}

/// The modules below `tree` that the machine needs, each after those that it depends on.
///
/// # Errors
/// When one can't be unpacked, or depends on one that is not there.
pub fn needed(tree: &Path) -> Result<Vec<Module>> {
    let mut files = BTreeMap::new();
    collect(tree, &mut files)?;
    let mut order = Vec::new();
    for wanted in WANTED.into_iter().filter(|wanted| files.contains_key(*wanted)) {
        visit(wanted, &mut order, &|name| {
            let file = files.get(name).with_context(|| format!("no module {name}"))?;
            unpack(file)
        })?;
    }
    Ok(order)
}

/// A module's name by its file's, if it is one: with underscores, as the kernel has it.
fn name_of(file: &str) -> Option<String> {
    let (name, ending) = file.split_once(".ko")?;
    matches!(ending, "" | ".xz" | ".zst" | ".gz").then(|| name.replace('-', "_"))
}

fn collect(directory: &Path, files: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    for entry in std::fs::read_dir(directory).with_context(|| format!("read {}", directory.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else if let Some(name) = path.file_name().and_then(|name| name_of(name.to_str()?)) {
            files.insert(name, path);
        }
    }
    Ok(())
}

fn unpack(file: &Path) -> Result<Vec<u8>> {
    let program = match file.extension().and_then(|ending| ending.to_str()) {
        Some("xz") => "xz",
        Some("zst") => "zstd",
        Some("gz") => "gzip",
        _ => return std::fs::read(file).with_context(|| format!("read {}", file.display())),
    };
    let done =
        Command::new(program).arg("-dc").arg(file).output().with_context(|| format!("start {program}"))?;
    if !done.status.success() {
        bail!("{program} -dc {}: {}", file.display(), String::from_utf8_lossy(&done.stderr).trim());
    }
    Ok(done.stdout)
}

fn visit(name: &str, order: &mut Vec<Module>, read: &dyn Fn(&str) -> Result<Vec<u8>>) -> Result<()> {
    let file = format!("{name}.ko");
    if order.iter().any(|module| module.file == file) {
        return Ok(());
    }
    let bytes = read(name)?;
    for below in dependencies(&bytes) {
        visit(&below, order, read).with_context(|| format!("{name} depends on it"))?;
    }
    order.push(Module { file, bytes });
    Ok(())
}

/// The modules that one depends on: the string `depends=a,b` of its section `.modinfo`.
fn dependencies(module: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(at) = module.windows(KEY.len()).position(|window| window == KEY) else { return Vec::new() };
    let list = module[at + KEY.len()..].split(|byte| *byte == 0).next().unwrap_or_default();
    let names = list.split(|byte| *byte == b',').filter(|name| !name.is_empty());
    names.map(|name| String::from_utf8_lossy(name).replace('-', "_")).collect()
}

/// Takes only what a machine may need out of a kernel's package.
///
/// # Errors
/// When the package can't be read.
pub fn extract(deb: &Path, directory: &Path) -> Result<()> {
    const PATTERNS: [&str; 9] = [
        "*/boot/vmlinu*",
        "*/lib/modules/*/vmlinuz",
        "*/kernel/fs/ext4/*",
        "*/kernel/fs/jbd2/*",
        "*/kernel/fs/xfs/*",
        "*/kernel/fs/mbcache*",
        "*/kernel/lib/*",
        "*/kernel/crypto/*",
        "*/kernel/drivers/*/*virtio*",
    ];
    std::fs::create_dir_all(directory).with_context(|| format!("create {}", directory.display()))?;
    let packer = run::which("dpkg-deb").context("there is no dpkg-deb here to unpack a Debian package")?;
    let mut tarball = Command::new(packer)
        .arg("--fsys-tarfile")
        .arg(deb)
        .stdout(std::process::Stdio::piped())
        .spawn()
        .context("start dpkg-deb")?;
    let stream = tarball.stdout.take().context("its output is a pipe")?;
    let mut tar = Command::new("tar");
    tar.args(["-x", "--wildcards", "-C"]).arg(directory).args(PATTERNS).stdin(stream);
    // A package need not have something of each.
    let told = tar.output().context("start tar")?;
    let packed = tarball.wait()?;
    if !packed.success() {
        bail!("dpkg-deb --fsys-tarfile {} failed: {}", deb.display(), String::from_utf8_lossy(&told.stderr));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn module(depends: &str) -> Vec<u8> {
        format!("\x7fELF\0license=GPL\0depends={depends}\0name=x\0").into_bytes()
    }

    #[test]
    fn the_name_of_a_module_is_its_files() {
        assert_eq!(name_of("ext4.ko").as_deref(), Some("ext4"));
        assert_eq!(name_of("crc32c-cryptoapi.ko.xz").as_deref(), Some("crc32c_cryptoapi"));
        assert_eq!(name_of("modules.order"), None);
        assert_eq!(name_of("ext4.ko.sig"), None);
    }

    #[test]
    fn a_module_says_what_it_depends_on() {
        assert_eq!(dependencies(&module("jbd2,crc16,mb-cache")), ["jbd2", "crc16", "mb_cache"]);
        assert_eq!(dependencies(&module("")), Vec::<String>::new());
        assert_eq!(dependencies(b"no module"), Vec::<String>::new());
    }

    #[test]
    fn each_comes_once_and_after_those_it_depends_on() {
        let read = |name: &str| match name {
            "ext4" => Ok(module("jbd2,mbcache")),
            "xfs" => Ok(module("crc")),
            "jbd2" => Ok(module("crc")),
            "mbcache" | "crc" => Ok(module("")),
            other => bail!("no module {other}"),
        };
        let mut order = Vec::new();
        visit("ext4", &mut order, &read).unwrap();
        visit("xfs", &mut order, &read).unwrap();
        let names: Vec<&str> = order.iter().map(|module| module.file.as_str()).collect();
        assert_eq!(names, ["crc.ko", "jbd2.ko", "mbcache.ko", "ext4.ko", "xfs.ko"]);
    }

    #[test]
    fn one_that_is_not_there_is_named_with_who_needs_it() {
        let read = |name: &str| if name == "ext4" { Ok(module("gone")) } else { bail!("no module {name}") };
        let error = visit("ext4", &mut Vec::new(), &read).unwrap_err();
        assert_eq!(format!("{error:#}"), "ext4 depends on it: no module gone");
    }
}
