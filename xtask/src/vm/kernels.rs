//! Which kernels there are: packages `linux-image-*-amd64` of every suite that the machine's own archive has, and what a
//! machine needs of them. Nothing is installed, and nothing is added to apt's sources.

use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::modules::{self, Module};
use crate::apt::{self, Private, Source};
use crate::place::Place;
use crate::say;
use crate::setup::download::Scratch;
use crate::setup::stamp;

/// Debian's releases from the first whose kernel is new enough for the programs.
const RELEASES: [&str; 4] = ["bullseye", "bookworm", "trixie", "forky"];

/// Suites beside the releases.
const BESIDE: [&str; 2] = ["sid", "experimental"];

/// Packages of kernels, and of the parts that some have apart, by their version.
const PATTERN: &str = "^linux-(image|modules|binary)-[0-9].*-amd64$";

/// Kinds of kernels that are like the ordinary one as far as the programs are concerned, or no kernel at all.
const OTHERS: [&str; 4] = ["-cloud-", "-rt-", "-unsigned", "-dbg"];

/// Lists older than this are fetched again.
const LISTS_LAST: Duration = Duration::from_hours(24);

/// The first three numbers of a kernel's version.
pub type Release = [u32; 3];

/// A kernel that can be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kernel {
    /// The package.
    pub package: String,
    /// Its version.
    pub version: String,
    /// The suite that has it.
    pub suite: String,
    /// The kernel's own version.
    pub release: Release,
}

impl Kernel {
    fn of(package: &str, version: &str, suite: &str) -> Option<Self> {
        if OTHERS.iter().any(|other| package.contains(other)) {
            return None;
        }
        let release = release(version)?;
        Some(Self { package: package.into(), version: version.into(), suite: suite.into(), release })
    }

    /// The kernel's own version.
    pub fn name(&self) -> String {
        let [major, minor, patch] = self.release;
        format!("{major}.{minor}.{patch}")
    }
}

/// A kernel and its modules, unpacked.
pub struct Unpacked {
    /// The compressed image that is booted.
    pub image: PathBuf,
    /// Modules in the order in which they can be loaded.
    pub modules: Vec<Module>,
}

/// The kernel's version in that of a package: `6.12.107-1~bpo12+1`, `7.4~rc3-1~exp1`.
pub fn release(version: &str) -> Option<Release> {
    let numbers = version.split(['-', '~', '+']).next()?;
    let mut numbers = numbers.split('.').map(str::parse::<u32>);
    let (major, minor) = (numbers.next()?.ok()?, numbers.next()?.ok()?);
    Some([major, minor, numbers.next().and_then(Result::ok).unwrap_or(0)])
}

/// The kernels of a suite all of whose packages it has: some archives keep the image without its modules.
fn whole(packages: &[(String, String)], suite: &str) -> Vec<Kernel> {
    let has = |package: String, version: &str| {
        packages.iter().any(|(name, other)| *name == package && other == version)
    };
    let found = packages.iter().filter(|(package, version)| {
        package.strip_prefix("linux-image-").is_some_and(|rest| {
            let part = |kind: &str| has(format!("linux-{kind}-{rest}"), version);
            part("binary") == part("modules")
        })
    });
    found.filter_map(|(package, version)| Kernel::of(package, version, suite)).collect()
}

/// The newest of each series (major and minor number), oldest series first.
pub fn newest(kernels: Vec<Kernel>) -> Vec<Kernel> {
    let mut series: BTreeMap<[u32; 2], Kernel> = BTreeMap::new();
    for kernel in kernels {
        let key = [kernel.release[0], kernel.release[1]];
        // The first that was found stays among equals: releases come before backports of the same.
        if series.get(&key).is_none_or(|known| known.release < kernel.release) {
            series.insert(key, kernel);
        }
    }
    series.into_values().collect()
}

/// The suites to ask: each of the archive and of its security updates.
fn suites(archive: &Source, security: Option<&Source>) -> Vec<(Source, String)> {
    let of_archive = |name: String| (archive.clone(), name);
    let mut all: Vec<(Source, String)> = Vec::new();
    for release in RELEASES {
        all.push(of_archive(release.to_owned()));
        all.extend(security.map(|source| (source.clone(), format!("{release}-security"))));
        all.push(of_archive(format!("{release}-backports")));
    }
    all.extend(BESIDE.into_iter().map(|name| of_archive(name.to_owned())));
    all
}

/// Everything the archive has.
pub struct Catalogue {
    directory: PathBuf,
    suites: Vec<(Source, String)>,
}

impl Catalogue {
    /// The archive that this machine uses.
    ///
    /// # Errors
    /// When it uses none of Debian's.
    pub fn open(place: &Place) -> Result<Self> {
        let archive = apt::archive().context("no Debian archive found in this machine's apt sources")?;
        Ok(Self {
            directory: place.tools.join("kernels"),
            suites: suites(&archive, apt::security().as_ref()),
        })
    }

    fn private(&self, suite: &str) -> Result<Private> {
        let source = self.suites.iter().find(|(_, name)| name == suite).context("a suite of ours")?;
        Private::create(&self.directory, &source.0, suite)
    }

    /// Every kernel of every suite. A suite that the archive does not have is named and passed over.
    ///
    /// # Errors
    /// When no suite has one.
    pub fn kernels(&self, place: &Place) -> Result<Vec<Kernel>> {
        let mut found = Vec::new();
        for (_, suite) in &self.suites {
            match self.of_suite(place, suite) {
                Ok(kernels) => found.extend(kernels),
                Err(error) => {
                    let reason = format!("{error:#}");
                    say::note(&format!("{suite}: {}", reason.lines().last().unwrap_or_default()));
                }
            }
        }
        if found.is_empty() {
            bail!("no suite of this machine's archive has a package linux-image-*-amd64");
        }
        Ok(found)
    }

    fn of_suite(&self, place: &Place, suite: &str) -> Result<Vec<Kernel>> {
        let private = self.private(suite)?;
        let fresh = self.directory.join(format!("apt-{suite}/fresh"));
        let age = fresh.metadata().and_then(|meta| meta.modified()).ok().and_then(|time| time.elapsed().ok());
        if age.is_none_or(|age| age > LISTS_LAST) {
            private.update(place)?;
            std::fs::write(&fresh, []).with_context(|| format!("write {}", fresh.display()))?;
        }
        Ok(whole(&private.packages(PATTERN)?, suite))
    }

    /// Fetches a kernel, unless it is there, and unpacks what a machine needs of it.
    ///
    /// # Errors
    /// When it can't be had or has no image.
    pub fn fetch(&self, place: &Place, kernel: &Kernel) -> Result<Unpacked> {
        let tree = self.directory.join(&kernel.version);
        let (done, key) = (tree.join("stamp"), format!("1 {} {}", kernel.package, kernel.version));
        if !stamp::matches(&done, &key) {
            say::note(&format!("fetching {} {} from {}", kernel.package, kernel.version, kernel.suite));
            let scratch = Scratch::new(place, "kernel")?;
            let private = self.private(&kernel.suite)?;
            let tree_name = "tree";
            for package in parts(&kernel.package, &private.needs(&kernel.package, &kernel.version)?) {
                let deb = private.download(place, &package, &kernel.version, scratch.path())?;
                modules::extract(&deb, &scratch.join(tree_name))?;
            }
            stamp::write(&scratch.join(tree_name).join("stamp"), &key)?;
            scratch.publish(tree_name, &tree)?;
        }
        Ok(Unpacked { image: image(&tree)?, modules: modules::needed(&tree)? })
    }
}

/// The packages that a kernel is made of: itself, and parts that some versions have in packages of their own.
fn parts(package: &str, needs: &[String]) -> Vec<String> {
    let own =
        needs.iter().filter(|name| name.starts_with("linux-modules-") || name.starts_with("linux-binary-"));
    std::iter::once(package.to_owned()).chain(own.cloned()).collect()
}

fn image(tree: &Path) -> Result<PathBuf> {
    let mut waiting = vec![tree.to_owned()];
    while let Some(directory) = waiting.pop() {
        for entry in std::fs::read_dir(&directory).with_context(|| format!("read {}", directory.display()))? {
            let path = entry?.path();
            if path.is_dir() {
                waiting.push(path);
            } else if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz")) {
                return Ok(path);
            }
        }
    }
    bail!("no vmlinuz in the package: look at {}", tree.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kernel(version: &str, suite: &str) -> Kernel {
        Kernel::of("linux-image-x-amd64", version, suite).unwrap()
    }

    #[test]
    fn the_kernels_version_is_in_the_packages() {
        assert_eq!(release("5.10.223-1"), Some([5, 10, 223]));
        assert_eq!(release("6.12.107-1~bpo12+1"), Some([6, 12, 107]));
        assert_eq!(release("7.4~rc3-1~exp1"), Some([7, 4, 0]));
        assert_eq!(release("0+debian"), None);
    }

    #[test]
    fn special_kernels_are_left_out() {
        let of = |package| Kernel::of(package, "6.1.140-1", "bookworm");
        assert!(of("linux-image-6.1.0-37-amd64").is_some());
        assert!(of("linux-image-6.1.0-37-cloud-amd64").is_none());
        assert!(of("linux-image-6.1.0-37-rt-amd64").is_none());
        assert!(of("linux-image-6.1.0-37-amd64-dbg").is_none());
    }

    #[test]
    fn an_image_without_its_modules_is_no_kernel() {
        let package = |name: &str| (name.to_owned(), "7.0.13-1".to_owned());
        let mut packages = vec![package("linux-image-7.0.13-amd64"), package("linux-binary-7.0.13-amd64")];
        assert_eq!(whole(&packages, "sid"), []);
        packages.push(package("linux-modules-7.0.13-amd64"));
        let found = whole(&packages, "sid");
        assert_eq!(found.iter().map(Kernel::name).collect::<Vec<_>>(), ["7.0.13"]);
        assert_eq!(whole(&[package("linux-image-6.1.0-55-amd64")], "bookworm").len(), 1);
    }

    #[test]
    fn the_newest_of_each_series_is_taken_from_the_first_suite_that_has_it() {
        let all = vec![
            kernel("7.2.3-1", "forky"),
            kernel("6.1.140-1", "bookworm"),
            kernel("6.1.158-1", "bookworm-security"),
            kernel("7.2.3-1", "sid"),
            kernel("5.10.223-1", "bullseye"),
        ];
        let chosen = newest(all);
        let names: Vec<_> = chosen.iter().map(|kernel| (kernel.name(), kernel.suite.as_str())).collect();
        let expected = [("5.10.223", "bullseye"), ("6.1.158", "bookworm-security"), ("7.2.3", "forky")];
        assert_eq!(names, expected.map(|(name, suite)| (name.to_owned(), suite)));
    }

    #[test]
    fn suites_of_the_archive_and_of_security_are_asked() {
        let source = |uri: &str| Source {
            uri: uri.into(),
            suites: Vec::new(),
            components: Vec::new(),
            signed_by: None,
        };
        let found = suites(&source("http://a"), Some(&source("http://s")));
        let of =
            |name: &str| found.iter().find(|(_, suite)| suite == name).map(|(source, _)| &source.uri[..]);
        assert_eq!((of("bullseye"), of("bullseye-security")), (Some("http://a"), Some("http://s")));
        assert_eq!((of("experimental"), of("trixie-backports")), (Some("http://a"), Some("http://a")));
        assert!(suites(&source("http://a"), None).iter().all(|(_, suite)| !suite.ends_with("-security")));
    }

    #[test]
    fn a_kernel_in_several_packages_is_fetched_whole() {
        let needs = ["kmod", "linux-modules-7.2.3", "linux-base"].map(str::to_owned);
        assert_eq!(parts("linux-image-7.2.3", &needs), ["linux-image-7.2.3", "linux-modules-7.2.3"]);
    }
}
