//! Files: reading with a readable error, and writing so that a killed process leaves either the old file or the new one.

use crate::error::Error;
use std::io::Write;
use std::path::{Path, PathBuf};

/// The bytes of a file.
pub fn read(path: &Path) -> Result<Vec<u8>, Error> {
    std::fs::read(path).map_err(|e| Error::reading(path, e))
}

/// The text of a file; `-` is standard input.
pub fn read_text(path: &Path) -> Result<String, Error> {
    if path == Path::new("-") {
        return std::io::read_to_string(std::io::stdin()).map_err(|e| Error::reading(path, e));
    }
    String::from_utf8(read(path)?).map_err(|_| Error::Malformed { path: path.to_path_buf(), why: "it is not UTF-8 text".into() })
}

/// Writes a file beside its final name, then renames it. A link stays a link; a device or a pipe (`/dev/null`) is written through.
pub fn write(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let resolved = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
    let path = resolved.as_path();
    if std::fs::metadata(path).is_ok_and(|m| !m.is_file() && !m.is_dir()) {
        let through = || std::fs::OpenOptions::new().write(true).open(path)?.write_all(bytes);
        return through().map_err(|e| Error::writing(path, e));
    }
    let name = path.file_name().ok_or_else(|| Error::usage(format!("`{}` names no file", path.display()), "give the name of a file"))?;
    let mut hidden = std::ffi::OsString::from(".");
    hidden.push(name);
    hidden.push(format!(".{}.tmp", std::process::id()));
    let beside: PathBuf = path.with_file_name(hidden);
    let attempt = || {
        let mut file = std::fs::File::create(&beside)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&beside, path)
    };
    attempt().map_err(|e| {
        // What is left of a failed attempt is of no use to anybody; that it cannot be removed changes nothing.
        let _ = std::fs::remove_file(&beside);
        Error::writing(path, e)
    })
}

/// The lower-case extension; for `.hlo.pb` both parts.
pub fn extension(path: &Path) -> String {
    let name = path.file_name().map(|n| n.to_string_lossy().to_lowercase()).unwrap_or_default();
    if name.ends_with(".hlo.pb") {
        return "hlo.pb".into();
    }
    name.rsplit_once('.').map_or(String::new(), |(_, e)| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writing_replaces_whole_files_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.bin");
        write(&path, b"old").unwrap();
        write(&path, b"new").unwrap();
        assert_eq!(read(&path).unwrap(), b"new");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "nothing else is left");
        assert_eq!(write(&dir.path().join("none/b"), b"x").unwrap_err().exit_code(), 6);
        assert_eq!(read(&dir.path().join("c")).unwrap_err().code(), "E0002");
    }

    #[test]
    #[cfg(unix)]
    fn devices_are_written_through_and_links_stay() {
        let dir = tempfile::tempdir().unwrap();
        let (real, link) = (dir.path().join("real"), dir.path().join("link"));
        write(&real, b"old").unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        write(&link, b"new").unwrap();
        assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(read(&real).unwrap(), b"new");
        // A pipe stands for a device: a device that this replaced would be lost to the whole machine.
        let pipe = dir.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let reader = std::thread::spawn({
            let pipe = pipe.clone();
            move || read(&pipe).unwrap()
        });
        write(&pipe, b"through").unwrap();
        assert_eq!(reader.join().unwrap(), b"through");
        assert!(!std::fs::metadata(&pipe).unwrap().is_file());
    }

    #[test]
    fn extensions() {
        let of = |p: &str| extension(Path::new(p));
        assert_eq!(
            (of("a.ONNX"), of("x/b.hlo.pb"), of("c"), of("d.tar.gir")),
            ("onnx".into(), "hlo.pb".into(), String::new(), "gir".into())
        );
    }
}
