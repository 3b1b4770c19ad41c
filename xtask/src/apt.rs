//! Debian packages: installed as root, or fetched and unpacked without installing anything.

use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::place::Place;
use crate::run;

mod sources;
#[cfg(test)]
mod tests;

pub use sources::{Source, archive, security};

/// Suites asked in turn for a package that the machine's own release doesn't have.
const LATER_SUITES: [&str; 2] = ["forky", "sid"];

fn apt_get() -> Result<Command> {
    let program =
        run::which("apt-get").context("there is no apt-get here (Debian or Ubuntu is needed for this)")?;
    let mut command = Command::new(program);
    command.env("DEBIAN_FRONTEND", "noninteractive").args(["-q", "-o", "DPkg::Lock::Timeout=120"]);
    Ok(command)
}

/// Installs packages with their dependencies. Fetches package lists only when the ones at hand don't do.
///
/// # Errors
/// Without root and without apt, with the command that a person can type.
pub fn install(place: &Place, packages: &[&str]) -> Result<()> {
    let list = packages.join(" ");
    if !run::root() {
        bail!("not root: run `apt-get install --no-install-recommends {list}` as root");
    }
    let mut command = apt_get()?;
    command.args(["install", "-y", "--no-install-recommends"]).args(packages);
    with_lists(place, || {
        run::step(&format!("apt-get install {list}"), &mut command, &place.logs().join("apt-install.log"))
    })
}

/// Fetches the .deb of `package` in the machine's own release into `directory`.
pub fn download(place: &Place, package: &str, directory: &Path) -> Result<PathBuf> {
    std::fs::create_dir_all(directory)?;
    let mut command = apt_get()?;
    command.current_dir(directory).args(["download", package]);
    with_lists(place, || {
        run::quietly(&mut command, &place.logs().join("apt-download.log"), || package.to_owned()).map(drop)
    })?;
    newest_deb(directory, package)
}

/// Unpacks a .deb into `directory`, installing nothing.
pub fn unpack(deb: &Path, directory: &Path) -> Result<()> {
    let program = run::which("dpkg-deb").context("there is no dpkg-deb here to unpack a Debian package")?;
    run::output(Command::new(program).arg("-x").arg(deb).arg(directory))?;
    Ok(())
}

/// Runs `act`; when it fails, renews the package lists (as root) and runs it again.
fn with_lists(place: &Place, mut act: impl FnMut() -> Result<()>) -> Result<()> {
    let present = std::fs::read_dir("/var/lib/apt/lists").is_ok_and(|mut files| {
        files.any(|f| f.is_ok_and(|f| f.file_name().to_string_lossy().contains("_Packages")))
    });
    let first = if present { act() } else { Err(anyhow::anyhow!("there are no package lists")) };
    let Err(error) = first else { return Ok(()) };
    if !run::root() {
        return Err(error.context("package lists may be old; run `apt-get update` as root and try again"));
    }
    run::step("apt-get update", apt_get()?.arg("update"), &place.logs().join("apt-update.log"))?;
    act()
}

/// Fetches the .deb of `package` whose version satisfies `fits` from a later Debian suite: with lists, cache and sources of
/// its own in a temporary directory, from the archive that this machine already uses. Nothing is added to the system.
pub fn download_later(
    place: &Place,
    package: &str,
    directory: &Path,
    fits: impl Fn(&str) -> bool,
) -> Result<PathBuf> {
    std::fs::create_dir_all(directory)?;
    let archive = archive().context("no Debian archive found in this machine's apt sources")?;
    let mut seen = Vec::new();
    for suite in LATER_SUITES {
        let private = Private::create(directory, &archive, suite)?;
        let log = place.logs().join("apt-later.log");
        if let Err(error) =
            run::quietly(private.apt_get()?.arg("update"), &log, || format!("lists of {suite}"))
        {
            seen.push(format!("{suite}: {error:#}"));
            continue;
        }
        let mut cache = Command::new(run::which("apt-cache").context("there is no apt-cache here")?);
        let versions =
            sources::madison(&run::output(cache.args(private.options()).args(["madison", package]))?);
        let Some((_, version)) = versions.iter().find(|(_, version)| fits(version)) else {
            seen.push(format!(
                "{suite} has {}",
                if versions.is_empty() { "none".to_owned() } else { join(&versions) }
            ));
            continue;
        };
        let mut fetch = private.apt_get()?;
        fetch.current_dir(directory).arg("download").arg(format!("{package}={version}"));
        run::quietly(&mut fetch, &log, || format!("{package} {version} from {suite}"))?;
        return newest_deb(directory, package);
    }
    bail!("no fitting {package} in Debian: {}", seen.join("; "))
}

fn join(versions: &[(String, String)]) -> String {
    versions.iter().map(|(_, version)| version.as_str()).collect::<Vec<_>>().join(", ")
}

/// apt's state for one suite, apart from the system's.
pub struct Private {
    directory: PathBuf,
}

impl Private {
    /// Makes it below `parent`, or takes the one that is there.
    pub fn create(parent: &Path, archive: &Source, suite: &str) -> Result<Self> {
        let directory = parent.join(format!("apt-{suite}"));
        for sub in ["lists/partial", "cache/archives/partial"] {
            std::fs::create_dir_all(directory.join(sub))?;
        }
        std::fs::write(directory.join("sources.list"), archive.line(suite))?;
        Ok(Self { directory })
    }

    fn options(&self) -> Vec<String> {
        let at = |sub: &str| self.directory.join(sub).display().to_string();
        [
            format!("Dir::State::Lists={}", at("lists")),
            format!("Dir::Cache={}", at("cache")),
            format!("Dir::Etc::SourceList={}", at("sources.list")),
            "Dir::Etc::SourceParts=/dev/null".to_owned(),
            // A mirror may lag behind. The archive's signature is checked all the same, and which version is wanted
            // follows from the compiler, not from what the archive calls newest.
            "Acquire::Check-Valid-Until=false".to_owned(),
            "Acquire::Languages=none".to_owned(),
            // The directory may be closed to apt's own user.
            "APT::Sandbox::User=root".to_owned(),
        ]
        .into_iter()
        .flat_map(|option| ["-o".to_owned(), option])
        .collect()
    }

    fn apt_get(&self) -> Result<Command> {
        let mut command = apt_get()?;
        command.args(self.options());
        Ok(command)
    }

    fn cache(&self) -> Result<Command> {
        let program = run::which("apt-cache").context("there is no apt-cache here")?;
        let mut command = Command::new(program);
        command.args(self.options());
        Ok(command)
    }

    /// Fetches the suite's lists of packages.
    ///
    /// # Errors
    /// When the archive does not have the suite, or can't be reached.
    pub fn update(&self, place: &Place) -> Result<()> {
        let log = place.logs().join("apt-suite.log");
        run::quietly(self.apt_get()?.arg("update"), &log, String::new).map(drop)
    }

    /// Packages whose names match a regular expression, with each of their versions.
    ///
    /// # Errors
    /// When apt-cache can't be run.
    pub fn packages(&self, pattern: &str) -> Result<Vec<(String, String)>> {
        let found = run::output(self.cache()?.args(["search", "--names-only", pattern]))?;
        let names: Vec<&str> = found.lines().filter_map(|line| line.split(' ').next()).collect();
        if names.is_empty() {
            return Ok(Vec::new());
        }
        Ok(sources::madison(&run::output(self.cache()?.arg("madison").args(names))?))
    }

    /// Names of the packages that one needs to be installed.
    ///
    /// # Errors
    /// When apt-cache can't be run.
    pub fn needs(&self, package: &str, version: &str) -> Result<Vec<String>> {
        let text = run::output(self.cache()?.arg("show").arg(format!("{package}={version}")))?;
        Ok(sources::depends(&text))
    }

    /// Fetches the .deb of a package into `directory`.
    ///
    /// # Errors
    /// When it can't be had.
    pub fn download(&self, place: &Place, package: &str, version: &str, directory: &Path) -> Result<PathBuf> {
        std::fs::create_dir_all(directory)?;
        let mut fetch = self.apt_get()?;
        fetch.current_dir(directory).arg("download").arg(format!("{package}={version}"));
        run::quietly(&mut fetch, &place.logs().join("apt-suite.log"), || package.to_owned())?;
        newest_deb(directory, package)
    }
}

fn newest_deb(directory: &Path, package: &str) -> Result<PathBuf> {
    let prefix = format!("{package}_");
    std::fs::read_dir(directory)?
        .filter_map(|entry| entry.ok().map(|e| e.path()))
        .filter(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with(&prefix) && name.ends_with(".deb")
        })
        .max_by_key(|path| path.metadata().and_then(|m| m.modified()).ok())
        .with_context(|| format!("apt-get download left no {package} in {}", directory.display()))
}
