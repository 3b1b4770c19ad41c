use super::engine::{default_registry, npmrc_registry};
use super::etcd::upstream;
use super::rust::{deb_version, field, minor};
use super::stamp;
use std::path::PathBuf;

/// A directory of this test's own, removed at the end.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("etcdmon-xtask-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self, name: &str, content: &str) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, content).unwrap();
        path
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn versions_match_by_their_minor_number() {
    assert_eq!(minor("1.97.0-nightly"), Some((1, 97)));
    assert_eq!(minor("1.97.1+dfsg1-1"), Some((1, 97)));
    assert_ne!(minor("1.95.0"), minor("1.97.0-nightly"));
    assert_eq!(minor("nightly"), None);
}

#[test]
fn the_version_of_a_package_file_is_in_its_name() {
    assert_eq!(deb_version("rust-src_1.97.1+dfsg1-1_all.deb", "rust-src"), Some("1.97.1+dfsg1-1"));
    assert_eq!(deb_version("rust-src-extra_1.97.1_all.deb", "rust-src"), None);
    assert_eq!(deb_version("rust-src_1.97.1_all.deb.part", "rust-src"), None);
}

#[test]
fn the_version_of_etcd_is_without_what_debian_adds() {
    assert_eq!(upstream("etcd-server_3.4.23-4+b4_amd64.deb", "etcd-server"), Some("3.4.23"));
    assert_eq!(upstream("etcd-client_3.5.16-4_amd64.deb", "etcd-server"), None);
}

#[test]
fn fields_of_the_compiler_are_read_by_name() {
    let text = "rustc 1.97.0-nightly (abc 2026-05-19)\nrelease: 1.97.0-nightly\nLLVM version: 22.1.4\n";
    assert_eq!(field(text, "release"), Some("1.97.0-nightly"));
    assert_eq!(field(text, "LLVM version"), Some("22.1.4"));
    assert_eq!(field(text, "host"), None);
}

#[test]
fn integrity_is_the_form_that_registries_give() {
    let directory = Directory::new("sri");
    let file = directory.file("x", "abc");
    let known =
        "sha512-3a81oZNherrMQXNJriBBMRLm+k6JqX6iCp7u5ktV05ohkpkqJ0/BqDa6PCOj/uu9RU1EI2Q86A4qmslPpUyknw==";
    assert_eq!(stamp::integrity(&file).unwrap(), known);
    let known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    assert_eq!(stamp::sha256(&file).unwrap(), known);
}

#[test]
fn a_stamp_holds_for_its_key_only() {
    let directory = Directory::new("stamp");
    let path = directory.0.join("x.stamp");
    assert!(!stamp::matches(&path, "one"));
    stamp::write(&path, "one").unwrap();
    assert!(stamp::matches(&path, "one"));
    assert!(!stamp::matches(&path, "two"));
    stamp::write(&path, "two lines\nwith an end\n").unwrap();
    assert!(stamp::matches(&path, "two lines\nwith an end\n"));
}

#[test]
fn a_rewritten_file_looks_different_and_a_directory_is_no_file() {
    let directory = Directory::new("look");
    let file = directory.file("x", "abc");
    let before = stamp::look(&file).unwrap();
    assert_eq!(stamp::look(&file), Some(before.clone()));
    directory.file("x", "abcd");
    assert_ne!(stamp::look(&file), Some(before));
    assert_eq!(stamp::look(&directory.0), None);
}

#[test]
fn the_sum_of_many_files_depends_on_names_and_bytes_not_on_order() {
    let directory = Directory::new("many");
    let (a, b) = (directory.file("a", "1"), directory.file("b", "2"));
    let sum = stamp::sha256_of(&[a.clone(), b.clone()]).unwrap();
    assert_eq!(stamp::sha256_of(&[b.clone(), a.clone()]).unwrap(), sum);
    directory.file("b", "3");
    assert_ne!(stamp::sha256_of(&[a, b]).unwrap(), sum);
}

#[test]
fn sums_are_found_by_the_whole_name() {
    let sums = "aa  rust-src.deb\nbb *other.deb\n";
    assert_eq!(stamp::listed(sums, "rust-src.deb"), Some("aa"));
    assert_eq!(stamp::listed(sums, "other.deb"), Some("bb"));
    assert_eq!(stamp::listed(sums, "src.deb"), None);
}

#[test]
fn the_registry_is_read_from_npmrc_and_from_npms_own_settings() {
    assert_eq!(
        npmrc_registry("fund=false\nregistry = https://r.example/npm/\n").as_deref(),
        Some("https://r.example/npm/")
    );
    assert_eq!(npmrc_registry("@scope:registry=https://r.example/\n"), None);
    let definitions =
        "define('proxy', {\n  default: null,\n})\ndefine('registry', {\n  default: 'https://r.example/',\n";
    assert_eq!(default_registry(definitions).as_deref(), Some("https://r.example/"));
    assert_eq!(default_registry("nothing"), None);
}
