"""How the page looks. The colours are those of Gradio's theme, which has a light and a dark form."""

CSS = """
.gradio-container > main.app { max-width: 1560px; margin: 0 auto; padding: 4px 24px 24px; }
h1, h4 { font-family: system-ui, sans-serif; }
#title h1 { margin: 10px 0 2px; font-size: 1.75rem; letter-spacing: -0.01em; }
#title p { margin: 0 0 4px; opacity: 0.75; }
.small .grid-wrap { min-height: 0 !important; height: auto !important; max-height: none !important; padding: 4px; }
.small .grid-container { grid-template-columns: repeat(5, minmax(0, 1fr)) !important; gap: 8px !important; }
.small .gallery-item, .small .thumbnail-item { height: auto; aspect-ratio: auto; }
.small .thumbnail-item { border-radius: 6px; border: 0; background: none; width: 100%; }
.small .thumbnail-item img { border-radius: 6px; height: auto; width: 100%; }
.small .caption-label { position: static; max-width: none; border: 0; padding: 2px 0; background: none; }
.small .caption-label { white-space: normal; text-align: left; opacity: 0.75; }
#photos .grid-container { grid-template-columns: repeat(4, minmax(0, 1fr)) !important; }
#photos .thumbnail-item, #photos .thumbnail-item img { aspect-ratio: 1; object-fit: cover; }
#photos .caption-label { display: none; }
#photos .grid-container { grid-auto-rows: auto !important; grid-template-rows: auto !important; }
#models, #models .html-container { padding: 0; }
.heading h4 { margin: 8px 0 0; font-size: 0.9rem; }
#file .icon-wrap, #file .or { display: none; }
.picture { border: 0 !important; background: none !important; }
.picture img { width: 100% !important; height: auto !important; border-radius: 6px; cursor: crosshair; }
.picture .image-container, .picture .image-frame { width: 100%; height: auto; }
.secondary-wrap input { padding-right: 30px; text-overflow: ellipsis; }  /* the arrow has a place of its own */
.words h4 { margin: 4px 0 0; font-size: 1.05rem; }
.words p { margin: 0; font-size: 0.8rem; opacity: 0.75; }
.words p { white-space: nowrap; overflow: hidden; text-overflow: ellipsis; }
.key { margin: 0; font-size: 0.8rem; opacity: 0.75; }
.key i { display: inline-block; width: 22px; height: 4px; border-radius: 2px; margin: 0 2px 3px; }
.bar { margin: 2px 0 0; }
.bar .colours { height: 14px; border-radius: 4px; }
.bar .ticks { position: relative; height: 20px; font-size: 0.8rem; font-variant-numeric: tabular-nums; }
.bar .ticks span { position: absolute; transform: translateX(-50%); }
.bar .ticks span:first-child { transform: none; }
.bar .ticks span:last-child { transform: translateX(-100%); }
.model { margin: 0 0 10px; padding: 8px 12px; border: 1px solid var(--border-color-primary); border-radius: 8px; }
.model h4 { margin: 0 0 4px; font-size: 0.9rem; overflow-wrap: anywhere; }
.model p { margin: 0 0 4px; font-size: 0.85rem; }
.model .refused { border-left: 3px solid var(--color-accent); padding-left: 8px; }
.model summary { cursor: pointer; font-size: 0.85rem; opacity: 0.75; }
.classes { list-style: none; margin: 6px 0 0; padding: 0; font-size: 0.85rem; }
.classes li { position: relative; display: flex; justify-content: space-between; padding: 2px 6px; margin: 0 0 3px; }
.classes i { position: absolute; inset: 0 auto 0 0; border-radius: 4px; }
.classes i { background: var(--color-accent); opacity: 0.25; }
.classes span, .classes b { position: relative; font-weight: 500; }
@media (max-width: 640px) {
  #all > #beside { display: contents; }
  #all > #beside > * { width: 100%; }
  #models { order: 1; }
  .gradio-container > main.app { padding: 0 8px 16px; }
  #title h1 { font-size: 1.3rem; }
  .small .grid-container { grid-template-columns: repeat(3, minmax(0, 1fr)) !important; }
}
"""
