//! Prometheus and its promtool, out of Debian's packages: unpacked, not installed, never started as a service. A test scrapes
//! the aggregator with it.

use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};

use super::download::Scratch;
use super::{Outcome, Piece, Purpose};
use crate::apt;
use crate::place::Place;
use crate::run;
use crate::say;

const PROGRAMS: [&str; 2] = ["prometheus", "promtool"];

/// Both programs.
pub struct Prometheus;

fn directory(place: &Place) -> PathBuf {
    place.tools.join("prometheus")
}

impl Piece for Prometheus {
    fn name(&self) -> String {
        "Prometheus (Debian's packages, unpacked, not installed)".to_owned()
    }

    fn purpose(&self) -> Purpose {
        Purpose::Test
    }

    fn ready(&self, place: &Place) -> bool {
        PROGRAMS.iter().all(|program| run::executable(&directory(place).join(program)))
    }

    fn fetch(&self, place: &Place) -> Result<Outcome> {
        let scratch = Scratch::new(place, "prometheus")?;
        // What people run today; this release's own may be years older.
        if let Err(error) = from_later(place, &scratch) {
            say::note(&format!("{error:#}"));
            say::note("this release's own Prometheus stands in");
            unpack(&apt::download(place, "prometheus", scratch.path())?, &scratch)?;
        }
        let bin = scratch.join("x/usr/bin");
        if let Some(missing) = PROGRAMS.iter().find(|program| !run::executable(&bin.join(program))) {
            bail!("no {missing} came out of Debian's packages");
        }
        scratch.publish("x/usr/bin", &directory(place))?;
        Ok(Outcome::Ready)
    }

    fn without(&self) -> &'static str {
        "the test that scrapes the aggregator with a real Prometheus is skipped"
    }
}

/// Both packages of one later suite: they come from the same source and have the same version.
fn from_later(place: &Place, scratch: &Scratch) -> Result<()> {
    let fits = |version: &str| version.starts_with("3.");
    for package in PROGRAMS {
        let directory = scratch.join(package);
        let deb = apt::download_later(place, package, &directory, fits)
            .with_context(|| format!("{package} of a later Debian release"))?;
        unpack(&deb, scratch)?;
    }
    Ok(())
}

fn unpack(deb: &Path, scratch: &Scratch) -> Result<()> {
    apt::unpack(deb, &scratch.join("x"))
}
