//! Which archive this machine uses, read from apt's own sources in both of their forms.

use std::path::Path;

/// One entry of apt's sources that offers packages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// Where the archive is.
    pub uri: String,
    /// Suites taken from it.
    pub suites: Vec<String>,
    /// Components taken from it.
    pub components: Vec<String>,
    /// The key ring that vouches for it, when one is named.
    pub signed_by: Option<String>,
}

impl Source {
    /// A one-line source for another suite of the same archive.
    pub fn line(&self, suite: &str) -> String {
        let signed = self.signed_by.as_ref().map_or_else(String::new, |ring| format!("[signed-by={ring}] "));
        format!("deb {signed}{} {suite} main\n", self.uri)
    }
}

/// The archive that this machine's own release comes from.
pub fn archive() -> Option<Source> {
    let release = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    choose(&read(Path::new("/etc/apt")), &codename(&release)?)
}

/// The archive of security updates that this machine's own release has.
pub fn security() -> Option<Source> {
    let release = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    choose(&read(Path::new("/etc/apt")), &format!("{}-security", codename(&release)?))
}

/// `VERSION_CODENAME` of an os-release file.
pub fn codename(release: &str) -> Option<String> {
    let value = release.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="))?;
    Some(value.trim().trim_matches('"').to_owned())
}

/// The source that offers `codename` itself (not its updates, not its security suite) with component main.
pub fn choose(sources: &[Source], codename: &str) -> Option<Source> {
    let offers =
        |s: &&Source| s.suites.iter().any(|x| x == codename) && s.components.iter().any(|x| x == "main");
    sources.iter().find(offers).cloned()
}

fn read(etc: &Path) -> Vec<Source> {
    let mut files = vec![etc.join("sources.list")];
    if let Ok(parts) = std::fs::read_dir(etc.join("sources.list.d")) {
        files.extend(parts.filter_map(|entry| entry.ok().map(|e| e.path())));
    }
    files
        .iter()
        .filter_map(|file| Some((file, std::fs::read_to_string(file).ok()?)))
        .flat_map(|(file, text)| match file.extension().and_then(|e| e.to_str()) {
            Some("sources") => deb822(&text),
            _ => one_line(&text),
        })
        .collect()
}

/// Sources of a `.list` file: `deb [options] uri suite component…`.
pub fn one_line(text: &str) -> Vec<Source> {
    text.lines().filter_map(|line| entry(line.split('#').next().unwrap_or_default())).collect()
}

fn entry(line: &str) -> Option<Source> {
    let rest = line.trim().strip_prefix("deb")?;
    if !rest.starts_with([' ', '\t']) {
        return None;
    }
    let rest = rest.trim_start();
    let (options, rest) = match rest.strip_prefix('[') {
        Some(inner) => inner.split_once(']')?,
        None => ("", rest),
    };
    let signed_by = options.split_whitespace().find_map(|o| o.strip_prefix("signed-by=")).map(str::to_owned);
    let mut words = rest.split_whitespace().map(str::to_owned);
    let (uri, suite) = (words.next()?, words.next()?);
    Some(Source { uri, suites: vec![suite], components: words.collect(), signed_by })
}

/// Sources of a `.sources` file: stanzas of `Field: values`, continued on indented lines; disabled ones are left out.
pub fn deb822(text: &str) -> Vec<Source> {
    let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    lines.split(|line| line.trim().is_empty()).flat_map(stanza).collect()
}

fn stanza(lines: &[&str]) -> Vec<Source> {
    let mut fields: Vec<(String, String)> = Vec::new();
    for line in lines {
        if line.starts_with([' ', '\t']) {
            if let Some((_, value)) = fields.last_mut() {
                value.push(' ');
                value.push_str(line.trim());
            }
        } else if let Some((key, value)) = line.split_once(':') {
            fields.push((key.trim().to_ascii_lowercase(), value.trim().to_owned()));
        }
    }
    let words = |name: &str| -> Vec<String> {
        let value = fields.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value.as_str());
        value.split_whitespace().map(str::to_owned).collect()
    };
    let disabled = words("enabled").first().is_some_and(|v| v.eq_ignore_ascii_case("no"));
    if disabled || !words("types").iter().any(|t| t == "deb") {
        return Vec::new();
    }
    // A key may also stand in the file itself; only a path can be handed on.
    let signed_by = words("signed-by").first().filter(|v| v.starts_with('/')).cloned();
    let source = |uri: String| Source {
        uri,
        suites: words("suites"),
        components: words("components"),
        signed_by: signed_by.clone(),
    };
    words("uris").into_iter().map(source).collect()
}

/// Packages and versions in the output of `apt-cache madison`, binary packages only, in its order (newest first).
pub fn madison(text: &str) -> Vec<(String, String)> {
    let version = |line: &str| {
        let mut columns = line.split('|').map(str::trim);
        let (package, version) = (columns.next()?, columns.next()?);
        columns.next()?.contains("Packages").then(|| (package.to_owned(), version.to_owned()))
    };
    text.lines().filter_map(version).collect()
}

/// Names of the packages that the first stanza of `apt-cache show` depends on, without versions and alternatives.
pub fn depends(text: &str) -> Vec<String> {
    let stanza = text.lines().take_while(|line| !line.is_empty());
    let fields =
        stanza.filter_map(|line| line.strip_prefix("Depends: ").or(line.strip_prefix("Pre-Depends: ")));
    let names = fields.flat_map(|list| list.split(',')).filter_map(|one| one.split_whitespace().next());
    names.map(str::to_owned).collect()
}
