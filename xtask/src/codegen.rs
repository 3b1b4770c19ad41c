//! `cargo xtask codegen`: renews the committed protobuf code and `docs/tables.md`. The tests that compare are the generators, so that a
//! stale file and a breaking change are found by the same code that writes it.

use anyhow::{Result, bail};
use std::process::ExitCode;

use crate::place::Place;
use crate::run;

/// Runs the generator.
pub fn run(place: &Place) -> Result<ExitCode> {
    for (package, test, what, source) in [
        ("etcdmon-proto", "contract", "the protobuf code", "the .proto files"),
        ("etcdmon-aggregator", "tables", "docs/tables.md", "the schema or its examples"),
    ] {
        let mut command = place.cargo();
        command.args(["test", "--package", package, "--test", test]).env("ETCD_MONITOR_UPDATE", "1");
        if !run::shown(&mut command)? {
            bail!("{what} was not renewed: mend {source} (above is why) and run `cargo xtask codegen` again");
        }
    }
    Ok(ExitCode::SUCCESS)
}
