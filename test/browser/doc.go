// Package browser looks at the pages of `spillway dev` as people do: in Chromium,
// against the real product. It is a module of its own because only it needs the
// driver of a browser.
//
//	go test ──CDP──▶ headless Chromium ──http──▶ pages of the dev
//	   │                    └──────websocket───▶ its notifier, killed and started again
//	   └── job enqueue --type notify ──▶ dev ──▶ …
//
// Set SPILLWAY_TEST_BROWSER=chromium to run it; without, its tests say that they
// did not run. tools/chromium installs what is missing. TestBrowserPictures leaves
// pictures for people and names their folder.
package browser
