//! Checkpoints that survive a kill at any moment.
//!
//! A checkpoint is a folder `step-0000000042` (`step-0000000042-2` when the step is saved again) of safetensors shards and a `manifest.json` with the size and hash of each. Every file is written
//! under a temporary name, synced, renamed, and its folder synced; the manifest comes last. So a checkpoint either has a manifest that fits its
//! shards, or it does not count. [`save`](Store::save) returns after the manifest is safe, and only then removes older checkpoints, always keeping
//! two. [`load_latest`] takes the newest whole one. A lock file keeps two trainers out of one folder.

use crate::data::Cursor;
use crate::error::RuntimeError;
use crate::session::Session;
use crate::tensors;
use girih_ir::literal::Literal;
use girih_ir::program::Program;
use girih_ir::step::Weights;
use serde::{Deserialize, Serialize};
use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Tensor bytes of a shard; a larger tensor has a shard of its own.
const SHARD_BYTES: usize = 1 << 30;
/// Checkpoints that are always kept.
const KEEP: usize = 2;
const MANIFEST: &str = "manifest.json";
const TEMPORARY: &str = ".tmp-";
const FORMAT: u32 = 1;

/// A file of a checkpoint.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Shard {
    file: String,
    bytes: u64,
    blake3: String,
}

/// A state tensor of the program that wrote the checkpoint.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Entry {
    name: String,
    #[serde(rename = "type")]
    ty: String,
}

/// The file that makes a checkpoint whole.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Manifest {
    format: u32,
    program: String,
    step: u64,
    seed: u64,
    cursor: Cursor,
    state: Vec<Entry>,
    shards: Vec<Shard>,
}

/// A checkpoint in memory.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    /// The step that comes next.
    pub step: u64,
    /// The seed of the program.
    pub seed: u64,
    /// The batch that comes next.
    pub cursor: Cursor,
    /// Values of all state.
    pub state: Weights,
    /// The folder that it was read from.
    pub path: PathBuf,
}

/// A folder of checkpoints that this process may write to.
#[derive(Debug)]
pub struct Store {
    dir: PathBuf,
    _lock: File,
}

fn io_at(path: &Path) -> impl FnOnce(io::Error) -> RuntimeError + '_ {
    move |source| RuntimeError::Io { path: path.to_path_buf(), source }
}

impl Store {
    /// Makes the folder if need be, locks it, and sweeps what an interrupted save left.
    ///
    /// # Errors
    /// [`RuntimeError::Locked`] while another process holds it.
    pub fn open(dir: impl AsRef<Path>) -> Result<Store, RuntimeError> {
        let dir = dir.as_ref().to_path_buf();
        fs::create_dir_all(&dir).map_err(io_at(&dir))?;
        let path = dir.join("lock");
        let lock = File::options().create(true).append(true).open(&path).map_err(io_at(&path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(RuntimeError::Locked { path }),
            Err(TryLockError::Error(e)) => return Err(io_at(&path)(e)),
        }
        let store = Store { dir, _lock: lock };
        store.sweep()?;
        Ok(store)
    }

    /// Removes temporary files; the lock makes sure that nobody writes them.
    fn sweep(&self) -> Result<(), RuntimeError> {
        let mut folders = vec![self.dir.clone()];
        folders.extend(folders_of(&self.dir)?.into_iter().map(|f| f.1));
        for folder in folders {
            for entry in fs::read_dir(&folder).map_err(io_at(&folder))? {
                let path = entry.map_err(io_at(&folder))?.path();
                if path.file_name().is_some_and(|n| n.to_string_lossy().starts_with(TEMPORARY)) {
                    fs::remove_file(&path).map_err(io_at(&path))?;
                }
            }
        }
        Ok(())
    }

    /// Writes the session's state. `step` and `cursor` are what comes next. When this returns, the checkpoint will be found after any crash.
    pub fn save(&mut self, session: &Session, step: u64, cursor: Cursor) -> Result<PathBuf, RuntimeError> {
        let program = session.program();
        self.save_state(program, &session.all_state()?, step, cursor, &mut |_| true)
    }

    /// As [`save`](Self::save); stops, as a crash would, when `go` returns `false` before an operation.
    fn save_state(
        &mut self,
        program: &Program,
        state: &Weights,
        step: u64,
        cursor: Cursor,
        go: &mut dyn FnMut(&str) -> bool,
    ) -> Result<PathBuf, RuntimeError> {
        let folder = self.fresh(step);
        let crash = |what: &str| Err(RuntimeError::Io { path: folder.clone(), source: io::Error::other(format!("stopped before {what}")) });
        if !go("create") {
            return crash("create");
        }
        fs::create_dir_all(&folder).map_err(io_at(&folder))?;
        sync_dir(&self.dir)?;
        let groups = shard(state);
        let mut shards = Vec::with_capacity(groups.len());
        for (i, group) in groups.iter().enumerate() {
            let file = format!("state-{:05}-of-{:05}.safetensors", i + 1, groups.len());
            let data = |why| RuntimeError::Data { path: folder.join(&file), why };
            let bytes = tensors::encode(group.iter().copied()).map_err(data)?;
            if !write_safely(&folder, &file, &bytes, go)? {
                return crash("the shards");
            }
            shards.push(Shard { bytes: bytes.len() as u64, blake3: blake3::hash(&bytes).to_hex().to_string(), file });
        }
        let manifest = Manifest {
            format: FORMAT,
            program: program.name.clone(),
            step,
            seed: program.step.seed,
            cursor,
            state: entries(program),
            shards,
        };
        let text = serde_json::to_vec_pretty(&manifest).map_err(|e| io_at(&folder)(e.into()))?;
        if !write_safely(&folder, MANIFEST, &text, go)? {
            return crash("the manifest");
        }
        // From here on the checkpoint counts.
        self.prune(go)?;
        Ok(folder)
    }

    /// A folder that does not exist yet: a checkpoint is never written over, for the old one may be the only whole one.
    fn fresh(&self, step: u64) -> PathBuf {
        let again = (2..).map(|n: u32| format!("step-{step:010}-{n}"));
        let mut names = std::iter::once(format!("step-{step:010}")).chain(again).map(|name| self.dir.join(name));
        names.find(|path| !path.exists()).expect("the names never end")
    }

    /// Removes all but the newest whole checkpoints, manifests first.
    fn prune(&self, go: &mut dyn FnMut(&str) -> bool) -> Result<(), RuntimeError> {
        let mut whole = 0;
        for (_, folder) in folders_of(&self.dir)? {
            if whole < KEEP {
                whole += usize::from(folder.join(MANIFEST).exists());
                continue;
            }
            if !go("prune") {
                return Ok(());
            }
            let manifest = folder.join(MANIFEST);
            if manifest.exists() {
                fs::remove_file(&manifest).map_err(io_at(&manifest))?;
                sync_dir(&folder)?;
            }
            if !go("prune shards") {
                return Ok(());
            }
            fs::remove_dir_all(&folder).map_err(io_at(&folder))?;
        }
        Ok(())
    }
}

fn entries(program: &Program) -> Vec<Entry> {
    let step = &program.step;
    step.state.iter().map(|p| Entry { name: p.name.clone(), ty: step.state_type(p).to_string() }).collect()
}

/// Cuts the state into shards, in name order.
fn shard(state: &Weights) -> Vec<Vec<(&str, &Literal)>> {
    let mut groups: Vec<Vec<(&str, &Literal)>> = vec![Vec::new()];
    let mut size = 0;
    for (name, value) in state {
        if size > 0 && size + value.bytes().len() > SHARD_BYTES {
            groups.push(Vec::new());
            size = 0;
        }
        size += value.bytes().len();
        if let Some(last) = groups.last_mut() {
            last.push((name, value));
        }
    }
    groups
}

/// Folders of checkpoints, whole or not, newest first.
fn folders_of(dir: &Path) -> Result<Vec<((u64, u32), PathBuf)>, RuntimeError> {
    let mut list = Vec::new();
    for entry in fs::read_dir(dir).map_err(io_at(dir))? {
        let path = entry.map_err(io_at(dir))?.path();
        let number = |text: &str| match text.split_once('-') {
            Some((step, again)) => Some((step.parse().ok()?, again.parse().ok()?)),
            None => Some((text.parse().ok()?, 1)),
        };
        let order = path.file_name().and_then(|n| number(n.to_str()?.strip_prefix("step-")?));
        if let (Some(order), true) = (order, path.is_dir()) {
            list.push((order, path));
        }
    }
    list.sort_by_key(|(order, _)| std::cmp::Reverse(*order));
    Ok(list)
}

/// Writes a file so that it is there whole or not at all; `false` when `go` stopped it.
fn write_safely(folder: &Path, name: &str, bytes: &[u8], go: &mut dyn FnMut(&str) -> bool) -> Result<bool, RuntimeError> {
    let (temporary, path) = (folder.join(format!("{TEMPORARY}{name}")), folder.join(name));
    if !go("write") {
        return Ok(false);
    }
    let mut file = File::create(&temporary).map_err(io_at(&temporary))?;
    let half = bytes.len() / 2;
    file.write_all(&bytes[..half]).map_err(io_at(&temporary))?;
    if !go("finish") {
        return Ok(false);
    }
    file.write_all(&bytes[half..]).map_err(io_at(&temporary))?;
    file.sync_all().map_err(io_at(&temporary))?;
    if !go("rename") {
        return Ok(false);
    }
    fs::rename(&temporary, &path).map_err(io_at(&path))?;
    sync_dir(folder)?;
    Ok(go("next"))
}

#[cfg(unix)]
fn sync_dir(dir: &Path) -> Result<(), RuntimeError> {
    File::open(dir).and_then(|d| d.sync_all()).map_err(io_at(dir))
}

/// Elsewhere folders cannot be synced; renames are as durable as the system makes them.
#[cfg(not(unix))]
fn sync_dir(_: &Path) -> Result<(), RuntimeError> {
    Ok(())
}

/// Writes one checkpoint; the folder is locked meanwhile. A trainer holds a [`Store`] instead.
pub fn save(dir: impl AsRef<Path>, session: &Session, step: u64, cursor: Cursor) -> Result<PathBuf, RuntimeError> {
    Store::open(dir)?.save(session, step, cursor)
}

/// Reads the newest whole checkpoint of a folder.
///
/// # Errors
/// [`RuntimeError::NoCheckpoint`] when there is none, with what is wrong with the newest that is not whole.
pub fn load_latest(dir: impl AsRef<Path>) -> Result<Checkpoint, RuntimeError> {
    let dir = dir.as_ref();
    let mut why = String::new();
    for (_, folder) in folders_of(dir)? {
        match load(&folder) {
            Ok(checkpoint) => return Ok(checkpoint),
            Err(reason) if why.is_empty() => why = format!(": {reason}"),
            Err(_) => {}
        }
    }
    Err(RuntimeError::NoCheckpoint { path: dir.to_path_buf(), why })
}

fn load(folder: &Path) -> Result<Checkpoint, String> {
    let read = |name: &str| fs::read(folder.join(name)).map_err(|e| format!("{}: {e}", folder.join(name).display()));
    let manifest: Manifest = serde_json::from_slice(&read(MANIFEST)?).map_err(|e| format!("{MANIFEST}: {e}"))?;
    if manifest.format != FORMAT {
        return Err(format!("its format is {}, this version reads {FORMAT}", manifest.format));
    }
    let mut state = Weights::new();
    for shard in &manifest.shards {
        // Names come from a file: they may not lead out of the folder.
        if Path::new(&shard.file).file_name().is_none_or(|n| n != shard.file.as_str()) {
            return Err(format!("`{}` is no file name", shard.file));
        }
        let bytes = read(&shard.file)?;
        if bytes.len() as u64 != shard.bytes || blake3::hash(&bytes).to_hex().as_str() != shard.blake3 {
            return Err(format!("{} does not have the size and hash that the manifest says", shard.file));
        }
        state.extend(tensors::decode(&bytes).map_err(|e| format!("{}: {e}", shard.file))?);
    }
    let have = |e: &Entry| state.get(&e.name).is_some_and(|l| l.ty().to_string() == e.ty);
    if let Some(missing) = manifest.state.iter().find(|e| !have(e)) {
        return Err(format!("`{}` of type {} is not in its shards", missing.name, missing.ty));
    }
    Ok(Checkpoint { step: manifest.step, seed: manifest.seed, cursor: manifest.cursor, state, path: folder.to_path_buf() })
}

impl Checkpoint {
    /// Puts the state into a session of the same program.
    ///
    /// # Errors
    /// [`RuntimeError::OtherProgram`] when names or types differ; nothing is changed then.
    pub fn restore(&self, session: &mut Session) -> Result<(), RuntimeError> {
        let other = |why| RuntimeError::OtherProgram { path: self.path.clone(), why };
        for (name, ty) in session.states() {
            match self.state.get(name) {
                None => return Err(other(format!("it has no `{name}`"))),
                Some(l) if l.ty() != ty => return Err(other(format!("its `{name}` is {}, the program's is {ty}", l.ty()))),
                Some(_) => {}
            }
        }
        if let Some(name) = self.state.keys().find(|n| session.states().iter().all(|s| s.0 != n.as_str())) {
            return Err(other(format!("the program has no `{name}`")));
        }
        session.init(&self.state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::{Inputs, RuntimeOptions};
    use crate::testing::{alone, literal, partial_sums, weights};

    fn session() -> Session {
        let program = partial_sums(4, 6, 8);
        let mut s = Session::of(program.clone(), RuntimeOptions::default()).unwrap();
        s.init(&weights(&program)).unwrap();
        s
    }

    /// State that tells which step it is of.
    fn state_of(step: u64) -> Weights {
        Weights::from([("w".to_string(), literal(step as u32, &[6, 16]))])
    }

    #[test]
    fn a_session_resumes_where_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let program = alone(6, 5, 4);
        let mut s = Session::of(program.clone(), RuntimeOptions::default()).unwrap();
        s.init(&weights(&program)).unwrap();
        let inputs = Inputs::from([("x".to_string(), literal(1, &[6, 4]))]);
        s.step(&inputs).unwrap();
        let cursor = Cursor { epoch: 2, batch: 7 };
        save(dir.path(), &s, 1, cursor).unwrap();
        let want = s.run(&inputs).unwrap();
        let mut fresh = Session::of(program, RuntimeOptions::default()).unwrap();
        let checkpoint = load_latest(dir.path()).unwrap();
        assert_eq!((checkpoint.step, checkpoint.cursor), (1, cursor));
        checkpoint.restore(&mut fresh).unwrap();
        assert_eq!(fresh.run(&inputs).unwrap(), want);
        let error = checkpoint.restore(&mut session()).unwrap_err();
        assert_eq!(error.code(), "E0723");
    }

    #[test]
    fn a_crash_at_any_operation_loses_no_acknowledged_step() {
        let program = session().program().clone();
        for crash in 0.. {
            let dir = tempfile::tempdir().unwrap();
            let mut acknowledged = None;
            let mut operations = 0;
            let mut crashed = false;
            for step in 1..=4u64 {
                let mut store = Store::open(dir.path()).unwrap();
                let mut go = |_: &str| {
                    operations += 1;
                    crashed |= operations > crash;
                    !crashed
                };
                let cursor = Cursor { epoch: 0, batch: step };
                if store.save_state(&program, &state_of(step), step, cursor, &mut go).is_ok() {
                    acknowledged = Some(step);
                }
                if crashed {
                    break;
                }
            }
            match (load_latest(dir.path()), acknowledged) {
                (Ok(found), acknowledged) => {
                    assert!(found.step >= acknowledged.unwrap_or(1), "{crash}: step {} after {acknowledged:?}", found.step);
                    assert_eq!(found.state, state_of(found.step));
                    assert_eq!(found.cursor.batch, found.step);
                }
                (Err(e), None) => assert_eq!(e.code(), "E0722"),
                (Err(e), Some(step)) => panic!("step {step} was acknowledged, but after a crash at {crash}: {e}"),
            }
            // The next trainer sweeps and goes on.
            let mut store = Store::open(dir.path()).unwrap();
            store.save_state(&program, &state_of(9), 9, Cursor::default(), &mut |_| true).unwrap();
            assert_eq!(load_latest(dir.path()).unwrap().step, 9);
            if !crashed {
                break;
            }
        }
    }

    #[test]
    fn damage_falls_back_to_the_checkpoint_before() {
        let program = session().program().clone();
        let damages: [fn(&Path); 5] = [
            |d| fs::remove_file(d.join(MANIFEST)).unwrap(),
            |d| fs::write(d.join(MANIFEST), b"{").unwrap(),
            |d| fs::remove_file(d.join("state-00001-of-00001.safetensors")).unwrap(),
            |d| {
                let path = d.join("state-00001-of-00001.safetensors");
                let bytes = fs::read(&path).unwrap();
                fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
            },
            |d| {
                let path = d.join("state-00001-of-00001.safetensors");
                let mut bytes = fs::read(&path).unwrap();
                *bytes.last_mut().unwrap() ^= 1;
                fs::write(path, &bytes).unwrap();
            },
        ];
        for damage in damages {
            let dir = tempfile::tempdir().unwrap();
            let mut store = Store::open(dir.path()).unwrap();
            let mut last = PathBuf::new();
            for step in 1..=5 {
                last = store.save_state(&program, &state_of(step), step, Cursor::default(), &mut |_| true).unwrap();
            }
            assert_eq!(folders_of(dir.path()).unwrap().len(), KEEP);
            damage(&last);
            let found = load_latest(dir.path()).unwrap();
            assert_eq!((found.step, found.state), (4, state_of(4)));
        }
    }

    #[test]
    fn a_step_saved_again_replaces_the_first_only_when_it_is_whole() {
        let program = session().program().clone();
        let dir = tempfile::tempdir().unwrap();
        let mut store = Store::open(dir.path()).unwrap();
        store.save_state(&program, &state_of(1), 7, Cursor::default(), &mut |_| true).unwrap();
        store.save_state(&program, &state_of(2), 7, Cursor::default(), &mut |op| op != "rename").unwrap_err();
        assert_eq!(load_latest(dir.path()).unwrap().state, state_of(1));
        store.save_state(&program, &state_of(3), 7, Cursor::default(), &mut |_| true).unwrap();
        assert_eq!(load_latest(dir.path()).unwrap().state, state_of(3));
    }

    #[test]
    fn two_trainers_do_not_share_a_folder() {
        let dir = tempfile::tempdir().unwrap();
        let first = Store::open(dir.path()).unwrap();
        assert_eq!(Store::open(dir.path()).unwrap_err().code(), "E0721");
        drop(first);
        Store::open(dir.path()).unwrap();
    }
}
