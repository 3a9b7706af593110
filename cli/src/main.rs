//! The `girih` command.
//!
//! Whatever happens inside, the user gets a readable message and an exit code that says what kind of thing it was: a panic becomes
//! `error[E9999]` and exit code 70.
#![forbid(unsafe_code)]

mod commands;

use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};

/// What the last panic said, and where.
static PANIC: Mutex<Option<String>> = Mutex::new(None);

fn main() -> ExitCode {
    std::panic::set_hook(Box::new(|info| {
        let place = info.location().map_or_else(|| "an unknown place".to_string(), ToString::to_string);
        let payload = info.payload();
        let text = payload.downcast_ref::<&str>().map(ToString::to_string).or_else(|| payload.downcast_ref::<String>().cloned());
        *PANIC.lock().unwrap_or_else(PoisonError::into_inner) = Some(format!("{} at {place}", text.unwrap_or_default()));
    }));
    match std::panic::catch_unwind(commands::main) {
        Ok(code) => ExitCode::from(code),
        Err(_) => {
            let what = PANIC.lock().unwrap_or_else(PoisonError::into_inner).take().unwrap_or_default();
            commands::internal_error(&what);
            ExitCode::from(70)
        }
    }
}
