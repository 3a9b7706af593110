//! The training loop: batches in, losses out, checkpoints on the way.

use crate::error::Error;
use girih_runtime::checkpoint::{Store, load_latest};
use girih_runtime::data::{Cursor, Dataset};
use girih_runtime::{CancelToken, Progress, RuntimeError, Session};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

/// How long to train, and what to keep.
#[derive(Clone, Debug, Default)]
pub struct TrainOptions {
    /// Train until this many steps are done, those before a resumed checkpoint included.
    pub steps: u64,
    /// Stops the loop between two steps, from any thread; a checkpoint is written then.
    pub cancel: CancelToken,
    /// Where checkpoints go.
    pub checkpoints: Option<Checkpoints>,
}

/// A folder of checkpoints and when they are written. One is always written at the end.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Checkpoints {
    /// The folder; it is made if need be.
    pub dir: PathBuf,
    /// Steps between checkpoints; 0 for the end only.
    pub every: u64,
    /// Go on from the newest checkpoint, if there is one.
    pub resume: bool,
}

/// What a training loop did.
#[derive(Clone, PartialEq, Debug)]
pub struct Trained {
    /// The first step that ran.
    pub first: u64,
    /// The step that would come next.
    pub next: u64,
    /// Whether the loop was cancelled.
    pub cancelled: bool,
    /// The last checkpoint that was written.
    pub checkpoint: Option<PathBuf>,
}

/// Trains a session on the batches of a data set. `progress` sees every step; the first number that it sees tells whether training
/// was resumed.
///
/// # Errors
/// Without `resume`, a folder that holds checkpoints already is refused: steps of two runs must not mix.
pub fn train(
    session: &mut Session,
    data: &Arc<Dataset>,
    options: &TrainOptions,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Trained, Error> {
    let (mut step, mut cursor) = (0, Cursor::default());
    let mut store = None;
    if let Some(kept) = &options.checkpoints {
        let opened = Store::open(&kept.dir)?;
        match (load_latest(&kept.dir), kept.resume) {
            (Ok(found), true) => {
                found.restore(session)?;
                (step, cursor) = (found.step, found.cursor);
            }
            (Ok(found), false) => {
                let what = format!("{} holds a checkpoint of step {} already", kept.dir.display(), found.step);
                return Err(Error::usage(what, "resume it, or give another folder"));
            }
            (Err(RuntimeError::NoCheckpoint { why, .. }), _) if why.is_empty() => {}
            (Err(e), _) => return Err(e.into()),
        }
        store = Some((opened, kept.every));
    }
    let first = step;
    let mut saved = None;
    let mut batches = data.batches(cursor);
    let mut cancelled = false;
    while step < options.steps {
        if options.cancel.is_cancelled() {
            cancelled = true;
            break;
        }
        let Some(batch) = batches.next() else { break };
        let batch = batch?;
        let start = Instant::now();
        let outputs = session.step_until(&batch, &options.cancel)?;
        progress(Progress { step, outputs, time: start.elapsed() });
        step += 1;
        if let Some((store, every)) = &mut store
            && *every > 0
            && step % *every == 0
        {
            saved = Some((step, store.save(session, step, batches.cursor())?));
        }
    }
    if let Some((store, _)) = &mut store
        && step > first
        && saved.as_ref().is_none_or(|(at, _)| *at < step)
    {
        saved = Some((step, store.save(session, step, batches.cursor())?));
    }
    Ok(Trained { first, next: step, cancelled, checkpoint: saved.map(|s| s.1) })
}
