//! `cargo xtask codegen`: renews the committed protobuf code. The contract test is the generator, so that a stale file and
//! a breaking change are found by the same code that writes it.

use anyhow::{Result, bail};
use std::process::ExitCode;

use crate::place::Place;
use crate::run;

/// Runs the generator.
pub fn run(place: &Place) -> Result<ExitCode> {
    let mut command = place.cargo();
    command
        .args(["test", "--package", "etcdmon-proto", "--test", "contract"])
        .env("ETCD_MONITOR_UPDATE", "1");
    if !run::shown(&mut command)? {
        bail!(
            "the protobuf code was not renewed: mend the .proto files (above is why) and run `cargo xtask codegen` again"
        );
    }
    Ok(ExitCode::SUCCESS)
}
