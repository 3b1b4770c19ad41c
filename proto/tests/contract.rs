//! The generated code is what the .proto files say, and what was published stays as it was.
//!
//! After a change of a .proto file run `ETCD_MONITOR_UPDATE=1 cargo test -p etcdmon-proto --test contract`: it renews
//! the generated code and *adds* to the published list. A line of that list is never edited or removed.

use std::path::{Path, PathBuf};

use prost_types::{DescriptorProto, FileDescriptorSet};

fn crate_dir() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn updating() -> bool {
    std::env::var_os("ETCD_MONITOR_UPDATE").is_some()
}

fn descriptors() -> FileDescriptorSet {
    let root = crate_dir().join("proto");
    let files =
        ["ingest.proto", "batch.proto", "enrolment.proto"].map(|file| root.join("etcdmon/v1").join(file));
    protox::compile(files, [root]).expect("the .proto files compile")
}

fn generate(into: &Path) -> String {
    tonic_prost_build::configure()
        .out_dir(into)
        .compile_fds(descriptors())
        .expect("code generation succeeds");
    std::fs::read_to_string(into.join("etcdmon.v1.rs")).expect("generated file")
}

#[test]
fn generated_code_is_current() {
    let scratch = tempfile::tempdir().expect("temporary directory");
    let fresh = generate(scratch.path());
    let committed = crate_dir().join("src/generated/etcdmon.v1.rs");
    if updating() {
        std::fs::write(&committed, &fresh).expect("write generated code");
    }
    let found = std::fs::read_to_string(&committed).unwrap_or_default();
    assert!(found == fresh, "stale: run ETCD_MONITOR_UPDATE=1 cargo test -p etcdmon-proto --test contract");
}

/// One line a field, enum value and method: all that a peer of another version relies on.
fn published_lines() -> Vec<String> {
    let mut lines = Vec::new();
    for file in descriptors().file {
        let package = file.package().to_owned();
        for message in &file.message_type {
            describe_message(&package, message, &mut lines);
        }
        for item in &file.enum_type {
            for value in &item.value {
                lines.push(format!("{package}.{} {} = {}", item.name(), value.name(), value.number()));
            }
        }
        for service in &file.service {
            for method in &service.method {
                lines.push(format!(
                    "{package}.{} {}({}{}) returns ({}{})",
                    service.name(),
                    method.name(),
                    if method.client_streaming() { "stream " } else { "" },
                    method.input_type(),
                    if method.server_streaming() { "stream " } else { "" },
                    method.output_type(),
                ));
            }
        }
    }
    lines.sort();
    lines
}

fn describe_message(scope: &str, message: &DescriptorProto, lines: &mut Vec<String>) {
    let name = format!("{scope}.{}", message.name());
    for field in &message.field {
        lines.push(format!(
            "{name} {} = {} {:?} {:?} {}",
            field.name(),
            field.number(),
            field.label(),
            field.r#type(),
            field.type_name()
        ));
    }
    for nested in &message.nested_type {
        describe_message(&name, nested, lines);
    }
}

#[test]
fn nothing_that_was_published_changed() {
    let list = crate_dir().join("src/generated/published.txt");
    let now = published_lines();
    if updating() {
        let before = std::fs::read_to_string(&list).unwrap_or_default();
        let mut all: Vec<String> = before.lines().map(str::to_owned).chain(now.clone()).collect();
        all.sort();
        all.dedup();
        std::fs::write(&list, all.join("\n") + "\n").expect("write the published list");
    }
    let published = std::fs::read_to_string(&list).unwrap_or_default();
    assert!(!published.is_empty(), "the published list is missing");
    for line in published.lines() {
        assert!(now.iter().any(|known| known == line), "published and now changed or gone: {line}");
    }
    for line in &now {
        assert!(published.lines().any(|known| known == line), "not on the published list yet: {line}");
    }
}
