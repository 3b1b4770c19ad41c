use super::sources::{Source, choose, codename, deb822, depends, madison, one_line};

const DEB822: &str = "\
# the archive
Types: deb deb-src
# a remark inside a stanza
URIs: http://mirror.example/debian
Suites: bookworm bookworm-updates
Components: main
 contrib
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://mirror.example/debian-security
Suites: bookworm-security
Components: main

Enabled: no
Types: deb
URIs: http://off.example/debian
Suites: bookworm
Components: main
";

#[test]
fn the_archive_of_a_deb822_file_is_the_one_of_the_release_itself() {
    let sources = deb822(DEB822);
    assert_eq!(sources.len(), 2, "a disabled stanza is no source");
    let archive = choose(&sources, "bookworm").unwrap();
    assert_eq!(archive.components, ["main", "contrib"]);
    assert_eq!(
        archive.line("sid"),
        "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://mirror.example/debian sid main\n"
    );
}

#[test]
fn one_line_sources_are_read_with_and_without_options() {
    let sources = one_line(
        "# deb http://comment.example/debian bookworm main\n\
         deb http://extra.example/debian bookworm contrib\n\
         deb-src http://mirror.example/debian bookworm main\n\
         deb http://mirror.example/security bookworm-security main\n\
         deb [arch=amd64 signed-by=/k.gpg] https://mirror.example/debian bookworm main contrib # ours\n",
    );
    let expected = Source {
        uri: "https://mirror.example/debian".into(),
        suites: vec!["bookworm".into()],
        components: vec!["main".into(), "contrib".into()],
        signed_by: Some("/k.gpg".into()),
    };
    assert_eq!(choose(&sources, "bookworm"), Some(expected));
    assert_eq!(choose(&sources, "trixie"), None);
}

#[test]
fn a_source_without_a_key_ring_has_no_options() {
    let sources = one_line("deb http://mirror.example/debian bookworm main");
    assert_eq!(sources[0].line("forky"), "deb http://mirror.example/debian forky main\n");
}

#[test]
fn the_codename_is_read_with_and_without_quotes() {
    assert_eq!(codename("ID=debian\nVERSION_CODENAME=bookworm\n").as_deref(), Some("bookworm"));
    assert_eq!(codename("VERSION_CODENAME=\"noble\"\n").as_deref(), Some("noble"));
    assert_eq!(codename("ID=arch\n"), None);
}

#[test]
fn madison_lists_binary_versions_only() {
    let text = " rust-src | 1.97.1+dfsg1-1 | http://mirror.example/debian sid/main amd64 Packages\n\
                 rustc | 1.97.1+dfsg1-1 | http://mirror.example/debian sid/main Sources\n";
    assert_eq!(madison(text), [("rust-src".to_owned(), "1.97.1+dfsg1-1".to_owned())]);
}

#[test]
fn what_a_package_needs_is_named_without_versions_and_alternatives() {
    let text = "Package: linux-image-x\nPre-Depends: a-base (>= 1)\nDepends: kmod, linux-modules-x (= 7.2), initramfs-tools (>= 0.120) | dracut\n\n\
                Package: linux-image-x\nDepends: of-another-version\n";
    assert_eq!(depends(text), ["a-base", "kmod", "linux-modules-x", "initramfs-tools"]);
}
